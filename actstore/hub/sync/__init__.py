"""A store and a repository brought to hold the same: push and pull."""
