"""Baselines of the benchmark: models of transformers and mambapy with the same shape as ours.

A model of transformers is built from the configuration that `src.export` would write, so layers, widths, heads and
vocabulary are ours. mambapy has no such configuration; its Mamba-1 has our width, depth and state-space width, as a
baseline of our Mamba-1 (with the same d_state) and of our Mamba-2 (with d_state 16, as in Mamba-1).

Both libraries are imported only here, when a baseline is built.
"""

import importlib.util
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec, UserError
from src.huggingface import mapping_of

MAMBAPY = "mambapy"
MAMBA1_STATE = 16
BASELINE_NAMES = {
    "LlamaForCausalLM": "hf_llama",
    "GPT2LMHeadModel": "hf_gpt2",
    "Mamba2ForCausalLM": "hf_mamba2",
    "MambaForCausalLM": "hf_mamba",
    "MixtralForCausalLM": "hf_mixtral",
    "GraniteMoeHybridForCausalLM": "hf_granite",
    "HybridForCausalLM": "hf_hybrid",
}
PACKAGES = ("transformers", "mambapy")
STATE_NAMES = ("cache", "cache_params", "past_key_values")
"""Parameters for the decoding state in transformers: the first from 5.24 on, before it one of the others."""


class Baseline(NamedTuple):
    """A model of another library with the functions that the benchmark measures."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    """From tokens (B, T + 1): the mean over their T targets."""
    prefill: Callable[[Tensor], Any]
    """Read tokens (B, T), compute the logits of the last position, and return the decoding state."""
    decode: Callable[[Tensor, Any], Any]
    """Read one more token (B, 1) and return the new state."""


def check_installed() -> None:
    """Check that the libraries are installed. Raises UserError naming the extra."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        extra = "pip install -c constraints.txt -e '.[peers]'"
        raise UserError(f"peers=true: {' and '.join(missing)} not installed; {extra}")


def baseline_names(spec: ModelSpec) -> list[str]:
    """Return the names of the baselines of a model. Raises UserError if transformers has no such model."""
    names = [] if set(spec.blocks) == {"mamba1"} else [BASELINE_NAMES[mapping_of(spec).class_name]]
    return [*names, *([MAMBAPY] if set(spec.blocks) <= {"mamba", "mamba1"} else [])]


def build_baseline(name: str, spec: ModelSpec) -> Baseline:
    """Build a baseline with random weights."""
    torch.manual_seed(0)
    return _build_mambapy(spec) if name == MAMBAPY else _build_transformers(spec)


def _build_transformers(spec: ModelSpec) -> Baseline:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are random, so nothing is downloaded
    import transformers

    transformers.logging.set_verbosity_error()  # it warns of kernels that are not available on this machine
    mapping = mapping_of(spec)
    values = {key: value for key, value in mapping.config(spec).items() if key not in ("model_type", "auto_map")}
    if mapping.code:
        from src.huggingface.modeling_hybrid import HybridConfig, HybridForCausalLM

        model: Any = HybridForCausalLM(HybridConfig(**values))
    else:
        config = transformers.AutoConfig.for_model(mapping.model_type, **values)
        model = getattr(transformers, mapping.class_name)(config)
    parameters = inspect.signature(model.forward).parameters
    state_name = next(name for name in STATE_NAMES if name in parameters)

    def loss(tokens: Tensor) -> Tensor:
        # `labels` would drop one target of each row; `shift_labels` has the targets of the same positions.
        return model(
            input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous(), use_cache=False
        ).loss

    def read(tokens: Tensor, **state: Any) -> Any:
        return model(input_ids=tokens, use_cache=True, logits_to_keep=1, **state)[state_name]

    return Baseline(model, loss, read, lambda tokens, state: read(tokens, **{state_name: state}))


def _build_mambapy(spec: ModelSpec) -> Baseline:
    from mambapy.mamba import Mamba, MambaConfig

    d_state = spec.d_state if "mamba1" in spec.blocks else MAMBA1_STATE
    config = MambaConfig(d_model=spec.d_model, n_layers=len(spec.blocks), d_state=d_state, d_conv=spec.d_conv)
    config.d_inner = spec.d_inner  # the constructor supports only integer multiples of d_model
    layers: Any = Mamba(config)
    # Its own language model needs a GPU to import; around the layers it has only these parts.
    embedding, norm = nn.Embedding(spec.vocab_size, spec.d_model), nn.RMSNorm(spec.d_model)
    head = nn.Linear(spec.d_model, spec.vocab_size, bias=False)

    def loss(tokens: Tensor) -> Tensor:
        logits = head(norm(layers(embedding(tokens[:, :-1]))))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def prefill(tokens: Tensor) -> Any:
        head(norm(layers(embedding(tokens))[:, -1]))
        # It returns no state; `decode` starts from an empty one, which costs the same.
        conv = torch.zeros(len(tokens), config.d_inner, config.d_conv - 1, device=tokens.device)
        state = torch.zeros(len(tokens), config.d_inner, d_state, device=tokens.device)
        return [(state, conv) for _ in spec.blocks]

    def decode(token: Tensor, state: Any) -> Any:
        hidden, state = layers.step(embedding(token[:, 0]), list(state))
        head(norm(hidden))
        return state

    return Baseline(nn.ModuleList([layers, embedding, norm, head]), loss, prefill, decode)
