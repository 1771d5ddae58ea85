"""One stage of training: batches in, a checkpoint and rows of metrics out."""
