"""Where the metrics of a run go: metrics.jsonl always, and what `tracking` names beside it."""
