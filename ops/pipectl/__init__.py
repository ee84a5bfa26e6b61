"""pipectl: run, reset, check and trigger the transaction pipeline."""

__version__ = "0.2.0.dev0"
