"""Opens files of each container format safely, as plain Python trees with Tensor leaves."""
