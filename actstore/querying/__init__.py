"""Answers questions to a store: SQL, selections, frames, nearest neighbours."""
