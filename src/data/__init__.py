"""Text to batches of token ids: sources -> clean -> split -> tokenizer -> packing -> loader. No torch."""
