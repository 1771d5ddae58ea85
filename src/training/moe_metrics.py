"""Load balance of the experts of each MoE block, as metrics of one optimizer step.

Of a block with E experts, from its choices in the whole global batch:
load_entropy   entropy of the shares over ln(E): 1 is an even load, 0 is a single expert
max_share      share of the busiest expert in all choices: at least 1 / E, at most 1 / k
dead_experts   number of experts chosen by no token
max_violation  load of the busiest expert over the mean load, minus 1 (MaxVio of Wang et al., 2024, arXiv 2408.15664)
router_z       mean over tokens of logsumexp(router logits)^2 (ST-MoE, eq. 5), without its weight in the loss

Each is logged per layer as `moe/layer_00/load_entropy` ..., where layer 00 is the first block with experts and other
blocks are not counted, and once for the model as `moe/load_entropy` ...: load_entropy and router_z as means over
layers, max_share and max_violation as maxima, dead_experts as a sum.
"""

import math
from typing import Any

from torch import Tensor


def describe_balance(load: Tensor, router_z: Tensor | None = None) -> dict[str, Any]:
    """Return the metrics of choices (layers, E) and router_z (layers,); synchronizes with the device."""
    layers = [balance_of_layer(choices) for choices in load.tolist()]
    columns: dict[str, list[Any]] = {name: [layer[name] for layer in layers] for name in layers[0]}
    if router_z is not None:
        columns["router_z"] = [value if math.isfinite(value) else None for value in router_z.tolist()]
    row = {
        f"moe/layer_{number:02}/{name}": value
        for name, column in columns.items()
        for number, value in enumerate(column)
    }
    return {f"moe/{name}": _reduce_layers(name, column) for name, column in columns.items()} | row


def balance_of_layer(load: list[int]) -> dict[str, float]:
    """Return the metrics of one layer from the number of choices of each expert."""
    shares = [choices / sum(load) for choices in load]
    entropy = math.fsum(share * math.log(1 / share) for share in shares if share)
    return {
        "load_entropy": entropy / math.log(max(2, len(load))),
        "max_share": max(shares),
        "dead_experts": load.count(0),
        "max_violation": len(load) * max(shares) - 1,
    }


def _reduce_layers(name: str, column: list[Any]) -> float | None:
    """Reduce the values of the layers to one; None if a router_z is not finite."""
    if name == "dead_experts":
        return sum(column)
    if name in ("max_share", "max_violation"):
        return max(column)
    return None if None in column else math.fsum(column) / len(column)
