"""The forward pass with its hooks: which states are kept, and how they are pooled."""
