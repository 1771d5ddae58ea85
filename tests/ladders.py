"""A synthetic ladder: finished runs of four sizes with two branches each; no model was trained for these numbers."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config, reference_spec
from tests.reporting.conftest import SweepBuilder

SIZES = ("pico", "300k", "nano", "2m")
BUDGETS = {"language": 80, "language_quarter": 20, "language_sixteenth": 5}
"""Tokens for each parameter."""
LAWS = {"dense": (0.4, 0.3), "mamba": (0.3, 0.38)}
"""Factor and exponent of the size: mamba learns more."""
NOISE = 0.002


def loss_of(architecture: str, params: float, tokens: float) -> float:
    """Return bits per byte by the law of an architecture."""
    factor, alpha = LAWS[architecture]
    return 0.8 + factor * (params / 8e5) ** -alpha + 0.2 * (tokens / 1.6e7) ** -0.35


def write_ladder(
    root: Path,
    seq_len: int = 256,
    sizes: tuple[str, ...] = SIZES,
    budgets: Mapping[str, float] = BUDGETS,
    seeds: int = 2,
) -> Path:
    """Write runs and a sweep below a folder of outputs, and return the sweep. Without seeds its jobs are planned."""
    builder, generator = SweepBuilder(root), np.random.default_rng(0)
    register_schema(TrainConfig, "train")
    for architecture in LAWS:
        for size in sizes:
            overrides = [f"architecture={architecture}", f"size={size}", f"training.seq_len={seq_len}"]
            config = compose_config(TrainConfig, "train", [*overrides, "stage=language_budgets"])
            spec = match_config(config).spec
            cost = model_cost(spec, seq_len)
            params = cost.active_non_embedding_params
            reference = model_cost(reference_spec(config), seq_len).active_non_embedding_params
            for seed in range(seeds):
                run = builder.add(architecture, seed, size, stages=tuple(budgets))
                summary = json.loads((run / "summary.json").read_text())
                summary["accounting"] |= cost.totals() | {"train_flops_per_token": cost.train_flops_per_token}
                summary["contract"] |= {"training.seq_len": seq_len, "training.global_batch_size": 8}
                summary["model"] = spec.to_dict()
                for stage, budget in budgets.items():
                    found = summary["stages"][stage]
                    bits = loss_of(architecture, params, budget * reference) * np.exp(
                        NOISE * generator.standard_normal()
                    )
                    found |= {
                        "tokens": round(budget * reference),
                        "corpus": "language",
                        "rollbacks": 0,
                        "val_bits_per_byte": float(bits),
                    }
                    found["references"]["floor_bits_per_byte"] = None
                    found |= {} if stage == "language" else {"branch_of": "language"}
                (run / "summary.json").write_text(json.dumps(summary))
            if not seeds:
                tokens = [round(budget * reference) for budget in budgets.values()]
                stages = dict(zip(budgets, (tokens[0], *(each // 5 for each in tokens[1:])), strict=True))
                shared = dict(zip(budgets, (0, *(each - each // 5 for each in tokens[1:])), strict=True))
                job = {"stage_tokens": stages, "shared_tokens": shared, "active_non_embedding_params": params}
                builder.plan(f"{architecture}-{size}-language-s0-0000abcd", architecture, 0, size, **job)
    return builder.sweep
