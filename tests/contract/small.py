"""The models of the tests: every architecture of conf/ with every recipe, as small as its pattern allows."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from src.cli.compose import compose_config, register_schema
from src.config.schema import CONF, ModelSpec, TrainConfig
from src.model.build import build_model
from src.model.language_model import LanguageModel, ModelOutput
from src.model.size_matching import match_size
from src.runtime.device import Device

ARCHITECTURES = sorted(path.stem for path in (CONF / "architecture").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
SIZES = sorted(path.stem for path in (CONF / "size").glob("*.yaml"))
GROUPED = "grouped"
"""Modern, with what models of other programs have: more and grouped heads, biases of q, k and v, scaled positions."""
GROUPED_SETTINGS = (
    *("size.n_heads=6", "size.n_kv_heads=2", "recipe.qkv_bias=true"),
    *("recipe.rope_scaling=llama3", "recipe.rope_factor=8", "recipe.rope_original_seq_len=32"),
)
GROUPED_ARCHITECTURES = {
    "dense": (),
    "hybrid": (),
    **dict.fromkeys(("dense_conv", "dense_qk_norm", "mamba"), (pytest.mark.slow,)),
}
"""Architectures that are tested with these, and the marks of their tests: hybrid has all kinds but the controls."""
CASES = [
    *((architecture, recipe) for architecture in ARCHITECTURES for recipe in RECIPES),
    *(pytest.param(architecture, GROUPED, marks=marks) for architecture, marks in GROUPED_ARCHITECTURES.items()),
]
"""Architectures and recipes that every contract is tested with."""
VOCAB_SIZE = 260
SEQ_LEN = 64
CPU = Device("cpu", "fp32", 1)


@cache
def composed(architecture: str, recipe: str, *more: str) -> TrainConfig:
    """Compose conf/ as on a command line."""
    if recipe == GROUPED:
        groups = ("architecture.n_groups=2",) if architecture in ("hybrid", "mamba") else ()
        return composed(architecture, "modern", *GROUPED_SETTINGS, *groups, *more)
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", [f"architecture={architecture}", f"recipe={recipe}", *more])


@cache
def small_spec(architecture: str, recipe: str = "modern") -> ModelSpec:
    """Match the smallest useful model: about 8 blocks, 4 heads of 16, 4 windows and 4 chunks per sequence.

    A pattern longer than 8 blocks is used once as a whole.
    """
    n_layers = max(4, -(-len(composed(architecture, recipe).architecture.pattern) // 2))
    sizes = ("size.d_model=64", f"size.n_layers={n_layers}", "size.head_dim=16", f"size.seq_len={SEQ_LEN}")
    config = composed(architecture, recipe, *sizes)
    match = match_size(
        config.architecture, config.size, config.recipe, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN, match=config.match
    )
    return replace(match.spec, chunk_size=16, max_seq_len=2 * SEQ_LEN)


def small_model(architecture: str, recipe: str = "modern", seed: int = 0) -> LanguageModel:
    return build_model(small_spec(architecture, recipe), seed)


def random_tokens(batch: int, length: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Tensor:
    """Draw token ids (B, T)."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def run_as_compiled(model: LanguageModel) -> Callable[..., ModelOutput]:
    """Return the forward pass on the code path of compiled models, in eager mode; a graph equals it exactly."""

    def forward(tokens: Tensor, documents: Tensor | None = None) -> ModelOutput:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            return model(tokens, documents=documents)

    return forward
