"""Engines: the ways of running the pipeline's services."""
