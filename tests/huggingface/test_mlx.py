"""Exports in mlx-lm, on its CPU build: equal logits, with and without its cache, and equal text. Extra [clients]."""

import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.config.schema import SamplingConfig
from src.huggingface.mappings import mapping_of
from src.huggingface.model_card import lacking_in_mlx
from src.inference.generation import generate
from tests.huggingface.cases import BLOCKS, exported, model_of, spec_of, tokenizer_of, tokens_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mlx_lm") is None, reason="needs mlx-lm"),
    pytest.mark.filterwarnings("ignore"),  # of mlx-lm and what it imports
]
CASES = [
    case
    for case in BLOCKS
    if case != "mamba1, odd width" and not lacking_in_mlx(spec_of(case), mapping_of(spec_of(case)))
]
LENGTH, PREFILLED = 60, 41
"""Longer than the window; the part that is read at once before single tokens are."""


def load_mlx(folder: Path, has_code: bool) -> tuple[Any, Any]:
    """Return mlx and an exported model in mlx-lm."""
    mx: Any = import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    model, _ = import_module("mlx_lm.utils").load_model(folder, trust_remote_code=has_code)
    return mx, model


def to_torch(mx: Any, logits: Any) -> Tensor:
    return torch.tensor(logits.astype(mx.float32).tolist())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_equal_with_and_without_a_cache(case: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(spec_of(case, tie_embeddings=tied), seed=3).eval()
    folder = exported(tmp_path / "model", model)
    mx, theirs = load_mlx(folder, has_code=mapping_of(model.spec).mlx_file is not None)
    tokens = tokens_of(model.spec, 2, LENGTH)
    expected, given = model.logits(tokens), mx.array(tokens.tolist())
    torch.testing.assert_close(to_torch(mx, theirs(given)), expected, atol=1e-4, rtol=0)
    cache = import_module("mlx_lm.models.cache").make_prompt_cache(theirs)
    parts = [theirs(given[:, :PREFILLED], cache)]
    parts += [theirs(given[:, i : i + 1], cache) for i in range(PREFILLED, LENGTH)]
    torch.testing.assert_close(to_torch(mx, mx.concatenate(parts, axis=1)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["dense", "dense, classic", "hybrid", "gated deltanet"])
def test_the_command_of_the_card_writes_our_greedy_text(case: str, tmp_path: Path) -> None:
    model = model_of(spec_of(case), seed=5).eval()
    folder, tokenizer, prompt = exported(tmp_path / "model", model), tokenizer_of(model.spec.vocab_size), "bab dad"
    tokens = generate(model, [0, *tokenizer.encode(prompt).ids], SamplingConfig(12, 0.0), stop=0)
    trust = " --trust-remote-code" if mapping_of(model.spec).mlx_file else ""
    command = f"mlx_lm.generate --model {folder} --prompt {shlex.quote(prompt)} --max-tokens 12{trust} --temp 0"
    module, *options = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", *module.split("."), *options], capture_output=True, text=True, check=True
    )
    shown = done.stdout.split("==========\n")[1]
    assert shown.strip() == tokenizer.decode(list(tokens)).strip(), "it drops a space at the beginning"


def test_code_needs_consent(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", model_of(spec_of("hybrid")))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_mlx(folder, has_code=False)
