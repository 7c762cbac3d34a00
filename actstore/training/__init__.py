"""Training batches from a store, in an order that can be resumed exactly."""
