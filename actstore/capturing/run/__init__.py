"""A capture from beginning to end: batches, rows, commits, and going on after a stop."""
