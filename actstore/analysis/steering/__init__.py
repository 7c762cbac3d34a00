"""Steering vectors: made, chosen, kept in files, validated, added to a model."""
