"""Turns source files into rows: containers, recipes, readers, the ingest run."""
