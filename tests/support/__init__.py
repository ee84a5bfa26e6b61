"""Helpers that all tiers of tests and the benchmarks share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
