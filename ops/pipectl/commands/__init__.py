"""Thin commands: parse, call, emit. One module per topic."""
