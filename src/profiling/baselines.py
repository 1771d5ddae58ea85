"""Other libraries' models of the same shape as ours: transformers and mambapy, as the benchmark's other sides.

A twin in transformers is built from the configuration that `src.export` would write, so layers, widths, heads and
vocabulary are ours. mambapy has no such twin; its Mamba-1 gets our width, depth and state-space width, beside our
Mamba-1 (with the same d_state) and beside our Mamba-2 (with the state of 16 that Mamba-1 has).

Both are imported here alone, when a peer is built.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec, UserError
from src.huggingface import twin_of

MAMBAPY = "mambapy"
MAMBA1_STATE = 16
NAMES = {
    "LlamaForCausalLM": "hf_llama",
    "GPT2LMHeadModel": "hf_gpt2",
    "Mamba2ForCausalLM": "hf_mamba2",
    "MambaForCausalLM": "hf_mamba",
    "MixtralForCausalLM": "hf_mixtral",
    "GraniteMoeHybridForCausalLM": "hf_granite",
    "HybridForCausalLM": "hf_hybrid",
}
PACKAGES = ("transformers", "mambapy")


class Peer(NamedTuple):
    """A model of another library, by what the benchmark asks of it."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    """Of tokens (B, T + 1): the mean over their T targets."""
    prefill: Callable[[Tensor], Any]
    """Read tokens (B, T), return the state after them, with the logits of the last position computed."""
    decode: Callable[[Tensor, Any], Any]
    """Read one more token (B, 1); returns the state after it."""


def check_installed() -> None:
    """See that the libraries are there. Raises UserError naming the extra."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        extra = "pip install -c constraints.txt -e '.[peers]'"
        raise UserError(f"peers=true: {' and '.join(missing)} not installed; {extra}")


def peers_of(spec: ModelSpec) -> list[str]:
    """Name the peers of a model. Raises UserError where transformers has no twin of it."""
    names = [] if set(spec.blocks) == {"mamba1"} else [NAMES[twin_of(spec).class_name]]
    return [*names, *([MAMBAPY] if set(spec.blocks) <= {"mamba", "mamba1"} else [])]


def build_peer(name: str, spec: ModelSpec) -> Peer:
    """Build a peer with random weights."""
    torch.manual_seed(0)
    return _mambapy(spec) if name == MAMBAPY else _transformers(spec)


def _transformers(spec: ModelSpec) -> Peer:
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched: there are no weights to fetch
    import transformers

    transformers.logging.set_verbosity_error()  # it would tell of kernels that this machine cannot have
    twin = twin_of(spec)
    values = {key: value for key, value in twin.config(spec).items() if key not in ("model_type", "auto_map")}
    if twin.code:
        from src.huggingface.modeling_hybrid import HybridConfig, HybridForCausalLM

        model: Any = HybridForCausalLM(HybridConfig(**values))
    else:
        config = transformers.AutoConfig.for_model(twin.model_type, **values)
        model = getattr(transformers, twin.class_name)(config)
    state_name = "cache_params" if spec.blocks[0].startswith("mamba") and len(set(spec.blocks)) == 1 else None
    state_name = state_name or "past_key_values"

    def loss(tokens: Tensor) -> Tensor:
        # `labels` would have it leave out one target of each row; `shift_labels` are those of the same positions.
        return model(
            input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous(), use_cache=False
        ).loss

    def read(tokens: Tensor, **state: Any) -> Any:
        return model(input_ids=tokens, use_cache=True, logits_to_keep=1, **state)[state_name]

    return Peer(model, loss, read, lambda tokens, state: read(tokens, **{state_name: state}))


def _mambapy(spec: ModelSpec) -> Peer:
    from mambapy.mamba import Mamba, MambaConfig

    d_state = spec.d_state if "mamba1" in spec.blocks else MAMBA1_STATE
    config = MambaConfig(d_model=spec.d_model, n_layers=len(spec.blocks), d_state=d_state, d_conv=spec.d_conv)
    config.d_inner = spec.d_inner  # it knows whole multiples of d_model alone
    layers: Any = Mamba(config)
    # Its own language model imports what needs a GPU; around the layers there is no more than this.
    embedding, norm = nn.Embedding(spec.vocab_size, spec.d_model), nn.RMSNorm(spec.d_model)
    head = nn.Linear(spec.d_model, spec.vocab_size, bias=False)

    def loss(tokens: Tensor) -> Tensor:
        logits = head(norm(layers(embedding(tokens[:, :-1]))))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def prefill(tokens: Tensor) -> Any:
        head(norm(layers(embedding(tokens))[:, -1]))
        # It gives no state: what `decode` begins with is empty, and costs the same.
        conv = torch.zeros(len(tokens), config.d_inner, config.d_conv - 1, device=tokens.device)
        state = torch.zeros(len(tokens), config.d_inner, d_state, device=tokens.device)
        return [(state, conv) for _ in spec.blocks]

    def decode(token: Tensor, state: Any) -> Any:
        hidden, state = layers.step(embedding(token[:, 0]), list(state))
        head(norm(hidden))
        return state

    return Peer(nn.ModuleList([layers, embedding, norm, head]), loss, prefill, decode)
