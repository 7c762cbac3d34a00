"""Writes rows of a store as files again: the layouts of the originals, and common formats.

One module per layout, with a function ``plan`` that says which files there will be and from
which rows each is made; :mod:`actstore.exporting.run` reads the vectors and writes them.
"""
