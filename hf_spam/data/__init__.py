"""From raw messages to batches: sources and splits, tokenization, collation."""
