"""What a twin is: a class of transformers that computes what one of our models computes, and its names for everything.

What `config.json` says is written by one function a twin (`settings`). Reading takes the sizes out of it (`sizes`) and
then compares the whole with what that function writes for them, so that nothing is read that would not be computed.

Two defaults of transformers would be silently wrong: a `pad_token_id` in the configuration freezes the embedding of
that token, so it stays null; and heads are tied unless told otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src.config.schema import ModelSpec, UserError
from src.data.tokenizer.bpe import EOT_ID
from src.huggingface.weight_mapping import Tie, tie
from src.model.blocks.attention.module import ROPE_THETA
from src.model.blocks.norm import EPS

WRITTEN_FOR = "5.23.0"
"""The version whose config.json we write."""
TESTED_WITH = "5.23.0 and 5.24.0"
MODERN: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False}
CLASSIC: dict[str, Any] = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True}
LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
TIME_STEP_LIMIT = [0.0, 65504.0]
"""No limit in effect. JSON has no infinity, mlx-lm has a lower limit above 0 where none is given, and torch clamps fp16
by no number that fp16 cannot hold."""
Settings = dict[str, Any]


class Outer(NamedTuple):
    """What a class calls the parts around its blocks."""

    embedding: str
    final_norm: str
    layers: str


HEAD = "lm_head.weight"
LLAMA = Outer("model.embed_tokens", "model.norm", "model.layers")


class Given:
    """What a `config.json` says, not yet believed."""

    def __init__(self, values: Settings, n_tensors: int) -> None:
        self.values = values
        self.n_tensors = n_tensors

    def whole(self, key: str, largest: int = 2**31 - 1) -> int:
        """Take a whole number above 0. Raises UserError."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= largest:
            raise UserError(f"{key}={value!r:.40}: must be a whole number from 1 to {largest}")
        return value

    def count(self, key: str) -> int:
        """Take a number of parts of which each has a tensor at least. Raises UserError."""
        return self.whole(key, largest=self.n_tensors)

    def words(self, key: str) -> list[str]:
        """Take a list of names. Raises UserError."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UserError(f"{key}={value!r:.40}: must be a list of names")
        return value


@dataclass(frozen=True)
class Twin:
    """One class of transformers."""

    class_name: str
    model_type: str
    outer: Outer
    norms: tuple[str, ...]
    """The norms of a layer: one for each block of ours that the layer holds."""
    tie_block: Callable[[ModelSpec, str, str, str], list[Tie]]
    """From a spec, a kind of block, the name of our block and that of their layer."""
    settings: Callable[[ModelSpec], Settings]
    """What `config.json` has to say besides what is common to all."""
    sizes: Callable[[Given], Settings]
    """The other way: fields of `ModelSpec`."""
    requires: Settings = field(default_factory=lambda: MODERN)
    """Fields of `ModelSpec` that have to have this value."""
    code: bool = False
    """Whether the class is none of transformers but goes along in `modeling_hybrid.py`."""
    also: tuple[str, ...] = ()
    """Other classes that `architectures` lists after this one."""

    def ties(self, spec: ModelSpec) -> list[Tie]:
        """List the ties of all tensors of a model."""
        found = [
            tie("embedding.weight", f"{self.outer.embedding}.weight"),
            *([] if spec.tie_embeddings else [tie("head.weight", HEAD)]),
            *_norm(spec, "final_norm", self.outer.final_norm),
        ]
        if spec.learned_positions:
            found.append(tie("positions.weight", "transformer.wpe.weight"))
        for i, kind in enumerate(spec.blocks):
            number, part = divmod(i, len(self.norms))
            layer = f"{self.outer.layers}.{number}"
            found += _norm(spec, f"norms.{i}", f"{layer}.{self.norms[part]}")
            found += self.tie_block(spec, kind, f"blocks.{i}", layer)
        return found

    def config(self, spec: ModelSpec) -> Settings:
        """Write the whole of `config.json`."""
        return {
            "architectures": [self.class_name, *self.also],
            "model_type": self.model_type,
            "vocab_size": spec.vocab_size,
            "tie_word_embeddings": spec.tie_embeddings,
            "use_cache": True,
            **self.settings(spec),
            "bos_token_id": EOT_ID,
            "eos_token_id": EOT_ID,
            "pad_token_id": None,
            "dtype": "float32",
            "transformers_version": WRITTEN_FOR,
        }


def _norm(spec: ModelSpec, ours: str, theirs: str) -> list[Tie]:
    parts = ("weight", "bias") if spec.norm == "layernorm" else ("weight",)
    return [tie(f"{ours}.{part}", f"{theirs}.{part}") for part in parts]


def attention_settings(spec: ModelSpec) -> Settings:
    """Write what Llama and its descendants say of attention."""
    return {
        "hidden_size": spec.d_model,
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_heads,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "max_position_embeddings": spec.max_seq_len,
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "rope_theta": ROPE_THETA,  # what transformers 4 and mlx-lm read; Mixtral has another default
    }


def attention_sizes(given: Given) -> Settings:
    """Read it."""
    width = given.whole("hidden_size")
    return {
        "d_model": width,
        "head_dim": max(1, width // given.whole("num_attention_heads")),
        "max_seq_len": given.whole("max_position_embeddings"),
    }
