"""pipectl: run, reset, check and trigger the transaction pipeline."""

__version__ = "0.1.0"
