"""The columnar store for model activations."""
