"""Training of one stage: from batches to checkpoints and rows of metrics."""
