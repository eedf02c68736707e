"""Data on its way from raw shards to batches."""
