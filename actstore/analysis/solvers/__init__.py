"""Linear classifiers, solved exactly and fast: one fit, and all fits of a cross-validation."""
