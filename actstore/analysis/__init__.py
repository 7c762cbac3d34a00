"""What stored activations tell: statistics, comparisons, probes, pictures, reports."""
