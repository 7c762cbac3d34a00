"""Writes and reads the store on disk: vector pages, shards, manifests, snapshots."""
