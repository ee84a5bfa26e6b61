"""The local engine: the pipeline's services as native processes, without Docker."""
