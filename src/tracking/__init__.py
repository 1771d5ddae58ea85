"""Destinations of metrics: metrics.jsonl always, and the trackers that `tracking` names."""
