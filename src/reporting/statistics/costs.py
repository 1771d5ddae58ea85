"""What each architecture of a comparison costs beside the reference: no matching rule makes all of it equal."""

from collections.abc import Mapping, Sequence

from src.reporting.data.json_values import Record, mean_value

REFERENCE = "dense"
COSTS = {
    "train_flops_per_token": "FLOPs",
    "non_embedding_params": "parameters",
    "state_bytes": "state",
    "peak_memory_bytes": "memory",
}
"""Columns of a run, and how a line calls them."""


def cost_line(members: Mapping[str, Sequence[Record]]) -> str | None:
    """Compare the costs of architectures with those of dense, or of the first where dense is missing.

    members: the runs of each architecture. FLOPs are of training, per token; parameters without embeddings and head;
    state per sequence at the training context; memory at its peak in training, so that it needs equal micro batches.
    """
    reference = REFERENCE if REFERENCE in members else next(iter(members))
    before = {key: mean_value(members[reference], key) for key in COSTS}
    parts: list[str] = []
    for name, runs in members.items():
        ratios = [
            f"{word} x{value / base:.2f}"
            for key, word in COSTS.items()
            if (base := before[key]) and (value := mean_value(runs, key)) is not None
        ]
        if name != reference and ratios:
            parts.append(f"{name} {', '.join(ratios)}")
    return f"cost against {reference}: {'; '.join(parts)}" if parts else None
