"""Training batches from a store: in an order that can be left and taken up again exactly."""
