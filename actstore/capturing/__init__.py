"""Captures activations while a model answers questions."""
