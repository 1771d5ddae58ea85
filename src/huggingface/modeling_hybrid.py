"""The hybrid of Advanced Code Model for transformers 5.23 or later 5.x: load with `trust_remote_code=True`.

GraniteMoeHybrid has layers of Mamba-2 or attention, each followed by an MLP or by experts. This file adds attention
within a sliding window, OLMo's gated DeltaNet, a separate feed-forward type for each layer (an MLP, or experts without
a shared MLP), and patterns without any attention.

transformers ignores unknown arguments, so a renamed one changes the logits without an error. On import this file
therefore checks the signatures that it depends on, and raises ImportError if they differ from the expected ones.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

MIN_VERSION = (5, 23)
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < MIN_VERSION:
    raise ImportError(
        f"modeling_hybrid.py: transformers {transformers.__version__} lacks parts of this model; "
        "install one that has them: pip install 'transformers>=5.23,<6'"
    )

from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM, GraniteMoeHybridModel  # noqa: E402
from transformers.cache_utils import DynamicCache  # noqa: E402
from transformers.masking_utils import (  # noqa: E402
    create_causal_mask,
    create_recurrent_attention_mask,
    create_sliding_window_causal_mask,
)

MASKS = {
    "full_attention": create_causal_mask,
    "sliding_attention": create_sliding_window_causal_mask,
    "linear_attention": create_recurrent_attention_mask,
}
CACHE_NAMES = ("cache", "past_key_values")
"""The parameter name of the cache in transformers: the second up to 5.23, the first from 5.24 on."""


def find_cache_name(functions: list[Callable[..., Any]]) -> str:
    """Return the name of the cache parameter of all these functions. Raises ImportError if they do not agree on one."""
    parameters = [inspect.signature(function).parameters for function in functions]
    names = [name for name in CACHE_NAMES if all(name in known for known in parameters)]
    given = {"self", "config", "inputs_embeds", "attention_mask", "layer_idx", *CACHE_NAMES}
    needed = {
        key
        for known in parameters
        for key, item in known.items()
        if item.default is item.empty and item.kind is not item.VAR_KEYWORD
    }
    if len(names) != 1 or not needed <= given:
        raise ImportError(
            f"modeling_hybrid.py: transformers {transformers.__version__} names the cache or the masks in a way that "
            "this file does not support; install a version that was tested: pip install 'transformers>=5.23,<5.25'"
        )
    return names[0]


CACHE = find_cache_name([*MASKS.values(), GraniteMoeHybridModel.forward, GraniteMoeHybridForCausalLM.forward])


class HybridConfig(GraniteMoeHybridConfig):
    """The settings of GraniteMoeHybrid, plus a window and the types of each layer."""

    model_type = "advanced_code_model_hybrid"

    sliding_window: int | None = None
    """Positions that sliding attention attends to, including its own."""
    feed_forward_types: list[str] | None = None
    """`mlp` or `moe` for each layer."""
    mixer_types: list[str] | None = None
    """For each layer `gated_deltanet` or the name of another mixer; absent if no layer is a gated DeltaNet."""
    linear_num_heads: int | None = None
    linear_key_head_dim: int | None = None
    linear_value_head_dim: int | None = None
    """Of gated DeltaNets; the kernel width of their convolution is `mamba_d_conv`."""


class NoSharedMLP(nn.Module):
    """Replaces the shared MLP of layers that have only experts: it adds zero."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.zeros_like(hidden_states)


def gated_deltanet(config: HybridConfig, layer: int) -> nn.Module:
    """Build OLMo's mixer with decay factors from 0 to 1."""
    from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet

    settings = {
        "linear_num_key_heads": config.linear_num_heads,
        "linear_num_value_heads": config.linear_num_heads,
        "linear_conv_kernel_dim": config.mamba_d_conv,
        "linear_allow_neg_eigval": False,
        "linear_a_log_min": 1.0,
        "linear_a_log_max": 16.0,
        "linear_dt_min": 1e-3,
        "linear_dt_max": 1e-1,
        "linear_dt_init_floor": 1e-4,
    }
    return OlmoHybridGatedDeltaNet(cast(Any, SimpleNamespace(**config.to_dict(), **settings)), layer)


class HybridModel(GraniteMoeHybridModel):
    """GraniteMoeHybrid with a mask for each type of layer."""

    config: HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        kinds = config.feed_forward_types or ["mlp"] * config.num_hidden_layers
        layers: Any = self.layers
        for i, mixer in enumerate(config.mixer_types or ()):
            if mixer == "gated_deltanet":
                layers[i].mamba = gated_deltanet(config, i)
        for layer, kind in zip(layers, kinds, strict=True):
            if kind == "moe":
                layer.shared_mlp = NoSharedMLP()
            else:
                layer.block_sparse_moe = None
                layer.has_experts = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Map tokens (B, T) to hidden states (B, T, D), as the class above does."""
        given = [kwargs.pop(name, None) for name in CACHE_NAMES]
        past = next((item for item in given if item is not None), None)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and not self.training
        if use_cache and past is None:
            past = DynamicCache(config=self.config)
        kinds = list(self.config.layer_types or [])
        attention_layers = [i for i, kind in enumerate(kinds) if kind != "linear_attention"]
        if position_ids is None:
            # A cache with only recurrent states does not count positions, and no layer needs them.
            seen = past.get_seq_length(attention_layers[0]) if past is not None and attention_layers else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + seen
        if not isinstance(attention_mask, dict):
            common = {
                "config": self.config,
                "inputs_embeds": inputs_embeds,
                "attention_mask": attention_mask,
                CACHE: past,
            }
            attention_mask = {
                kind: MASKS[kind](**common, **({} if kind == "linear_attention" else {"layer_idx": kinds.index(kind)}))
                for kind in dict.fromkeys(kinds)
            }
        return super().forward(
            attention_mask=cast(Any, attention_mask),
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{CACHE: past},
            **kwargs,
        )


class HybridForCausalLM(GraniteMoeHybridForCausalLM):
    """The model with its head."""

    config_class = HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.model = HybridModel(config)
        self.post_init()
