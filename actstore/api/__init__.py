"""The face of the package: a store to ask, and the selections that it answers with."""
