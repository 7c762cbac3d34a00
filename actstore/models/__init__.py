"""Language models: loaded from wherever they come, with their blocks found."""
