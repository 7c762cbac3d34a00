"""Runs the command line as `python -m actstore`."""

from actstore.cli import main

main()
