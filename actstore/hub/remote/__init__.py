"""A repository on the Hub read from afar: its files, the store in it, and what can go wrong."""
