"""The hybrid of Advanced Code Model for mlx-lm 0.31 or later: load with `trust_remote_code=True`.

Each layer is a mixer (Mamba-2 or attention of mlx-lm's GraniteMoeHybrid, attention within a window, or gated DeltaNet
of its OlmoHybrid), and an MLP or experts, as in `modeling_hybrid.py` for transformers.
"""

# mlx is in no extra of the development environment.
# pyright: reportMissingImports=false

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import granitemoehybrid as granite
from mlx_lm.models.base import create_attention_mask, create_ssm_mask
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache
from mlx_lm.models.olmo_hybrid import GatedDeltaNet


@dataclass
class ModelArgs(granite.ModelArgs):
    """The settings of GraniteMoeHybrid, and those of `HybridConfig` in `modeling_hybrid.py`."""

    sliding_window: int | None = None
    feed_forward_types: list[str] | None = None
    mixer_types: list[str] | None = None
    linear_num_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0

    def delta(self) -> SimpleNamespace:
        """Return the settings of a gated DeltaNet with decay factors from 0 to 1."""
        return SimpleNamespace(
            hidden_size=self.hidden_size,
            linear_num_key_heads=self.linear_num_heads,
            linear_num_value_heads=self.linear_num_heads,
            linear_key_head_dim=self.linear_key_head_dim,
            linear_value_head_dim=self.linear_value_head_dim,
            linear_conv_kernel_dim=self.mamba_d_conv,
            linear_allow_neg_eigval=False,
            layer_norm_epsilon=1e-5,
        )


class Layer(nn.Module):
    """A mixer and a feed-forward block, each added to the residual stream."""

    def __init__(self, args: ModelArgs, index: int) -> None:
        super().__init__()
        self.kind = args.layer_types[index]
        self.is_delta = bool(args.mixer_types) and args.mixer_types[index] == "gated_deltanet"
        self.window = args.sliding_window if self.kind == "sliding_attention" else None
        self.input_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        if self.kind == "linear_attention":
            self.mamba = GatedDeltaNet(args.delta()) if self.is_delta else granite.GraniteMoeHybridMamba2Mixer(args)
        else:
            self.self_attn = granite.GraniteMoeHybridAttention(args)
        if (args.feed_forward_types or ["mlp"] * len(args.layer_types))[index] == "moe":
            self.block_sparse_moe = granite.GraniteMoeHybridMoE(args)
        else:
            self.shared_mlp = granite.GraniteMoeHybridSharedMLP(args)

    def __call__(self, hidden: mx.array, cache: Any = None) -> mx.array:
        normed = self.input_layernorm(hidden)
        if self.kind == "linear_attention":
            hidden = hidden + self.mamba(normed, create_ssm_mask(normed, cache), cache)
        else:
            hidden = hidden + self.self_attn(normed, create_attention_mask(normed, cache, self.window), cache)
        normed = self.post_attention_layernorm(hidden)
        return hidden + (self.block_sparse_moe if "block_sparse_moe" in self else self.shared_mlp)(normed)

    def make_cache(self) -> Any:
        if self.kind == "linear_attention":
            return ArraysCache(size=4 if self.is_delta else 2)
        return KVCache() if self.window is None else RotatingKVCache(max_size=self.window)


class Layers(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [Layer(args, index) for index in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)


class Model(nn.Module):
    """The model with its head."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args, self.model_type = args, args.model_type
        self.model = Layers(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Map tokens (B, T) to logits (B, T, V)."""
        hidden = self.model.embed_tokens(inputs)
        for layer, own in zip(self.layers, cache or [None] * len(self.layers), strict=True):
            hidden = layer(hidden, own)
        hidden = self.model.norm(hidden)
        return self.model.embed_tokens.as_linear(hidden) if self.args.tie_word_embeddings else self.lm_head(hidden)

    @property
    def layers(self) -> list[Layer]:
        return self.model.layers

    def make_cache(self) -> list[Any]:
        return [layer.make_cache() for layer in self.layers]

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Give the tensors of the file the names and layouts of mlx-lm."""
        keys = self.args.linear_num_heads * self.args.linear_key_head_dim
        found: dict[str, mx.array] = {}
        for name, value in weights.items():
            start, _, part = name.rpartition(".")
            if start.endswith(".conv1d") and part == "weight":
                kernel = value.moveaxis(2, 1)
                if self.layers[int(name.split(".")[2])].is_delta:
                    pieces = zip("qkv", mx.split(kernel, [keys, 2 * keys]), strict=True)
                    mixer = start.removesuffix("conv1d")
                    found |= {f"{mixer}{which}_conv1d.weight": piece for which, piece in pieces}
                else:
                    found[name] = kernel
            elif start.endswith(".experts"):
                experts = f"{start.removesuffix('experts')}switch_mlp"
                if part == "down_proj":
                    found[f"{experts}.down_proj.weight"] = value
                else:
                    gate, up = mx.split(value, 2, axis=1)
                    found |= {f"{experts}.gate_proj.weight": gate, f"{experts}.up_proj.weight": up}
            else:
                found[name.replace("router.weight", "router.layer.weight")] = value
        return found
