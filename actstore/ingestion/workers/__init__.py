"""An ingest by many processes: each reads pieces of the source files and stores them itself."""
