"""Checks before a run that hooks see what the model computes."""
