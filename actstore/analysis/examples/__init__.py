"""Which examples a probe or vector is made of and judged by."""
