"""Datasets behind a URI, read through a cache of shards on a local disk."""
