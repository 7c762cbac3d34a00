"""Captures by many processes that something else starts: Ray actors, jobs of a SLURM array."""
