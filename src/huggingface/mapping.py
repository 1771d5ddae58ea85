"""A mapping of our models to a class of transformers that computes the same: its settings, sizes and tensor names.

`settings` returns the content of `config.json`. Reading extracts the sizes (`sizes`) and then compares the whole file
with the settings for these sizes, so that nothing is accepted that would not be computed.

Two defaults of transformers would be silently wrong: a `pad_token_id` in the configuration freezes the embedding of
that token, so it stays null; and heads are tied by default, so it is always written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from src.config.schema import ModelSpec, UserError
from src.data.tokenizer.bpe import EOT_ID
from src.huggingface.weight_mapping import TensorMapping, map_tensor

WRITTEN_FOR = "5.23.0"
"""The version whose config.json we write."""
TESTED_WITH = "5.23.0 and 5.24.0"
MLX_TESTED_WITH = "0.32.2"
MLX_NEEDED = "0.31"
LM_EVAL_TESTED_WITH = "0.4.13"
LLAMA_CPP_TESTED_WITH = "xllamacpp 2026.10.11549"
MODERN: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False}
CLASSIC: dict[str, Any] = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True}
LAYER_NORMS = ("input_layernorm", "post_attention_layernorm")
TIME_STEP_LIMIT = [0.0, 65504.0]
"""No effective limit. JSON has no infinity, mlx-lm has a lower limit above 0 by default, and torch cannot clamp fp16 by
a number that exceeds fp16."""
Settings = dict[str, Any]
MAX_NUMBER = 10**12
"""Largest number that is read; no base of rotary positions is near it."""


class OuterNames(NamedTuple):
    """The names of the parts around the blocks."""

    embedding: str
    final_norm: str
    layers: str


HEAD = "lm_head.weight"
LLAMA = OuterNames("model.embed_tokens", "model.norm", "model.layers")


class UntrustedConfig:
    """The unchecked content of a `config.json`."""

    def __init__(self, values: Settings, n_tensors: int) -> None:
        self.values = values
        self.n_tensors = n_tensors

    def positive_int(self, key: str, largest: int = 2**31 - 1) -> int:
        """Return an integer above 0. Raises UserError."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= largest:
            raise UserError(f"{key}={value!r:.40}: must be a whole number from 1 to {largest}")
        return value

    def positive_number(self, key: str) -> float:
        """Return a number above 0. Raises UserError."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_NUMBER:
            raise UserError(f"{key}={value!r:.40}: must be a number above 0")
        return float(value)

    def read_fields(self, fields: dict[str, str]) -> Settings:
        """Return fields of `ModelSpec` from the keys that hold them. Raises UserError."""
        return {field: self.positive_int(key) for key, field in fields.items()}

    def count(self, key: str) -> int:
        """Return the number of parts that have at least one tensor each. Raises UserError."""
        return self.positive_int(key, largest=self.n_tensors)

    def name_list(self, key: str) -> list[str]:
        """Return a list of names. Raises UserError."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UserError(f"{key}={value!r:.40}: must be a list of names")
        return value


OPTIONAL: dict[str, Callable[[ModelSpec], str | None]] = {
    "wide heads": lambda spec: f"n_heads={spec.n_heads}" if spec.attention_width != spec.d_model else None,
    "grouped heads": lambda spec: f"n_kv_heads={spec.n_kv_heads}" if spec.n_kv_heads != spec.n_heads else None,
    "qkv biases": lambda spec: "qkv_bias=true" if spec.qkv_bias else None,
    "scaled positions": lambda spec: f"rope_scaling={spec.rope_scaling}" if spec.rope_scaling != "none" else None,
}
"""Properties of attention that some classes have: the setting that asks for one; None if a model does not have it."""
LLAMA_FAMILY = ("wide heads", "grouped heads", "scaled positions")


@dataclass(frozen=True)
class Mapping:
    """The mapping to one class of transformers."""

    class_name: str
    model_type: str
    outer: OuterNames
    norms: tuple[str, ...]
    """The norms of a layer: one for each of our blocks in it."""
    blocks: dict[str, tuple[str, list[TensorMapping]]]
    """The name of the part of a layer, and the tensors, of each kind of block, in the order of a layer."""
    fields: dict[str, str]
    """Keys of `config.json`, with the field of `ModelSpec` that each holds."""
    settings: Callable[[ModelSpec], Settings]
    """Content of `config.json` besides `fields` and the keys common to all."""
    sizes: Callable[[UntrustedConfig], Settings]
    """The inverse: the fields of `ModelSpec` that are not in `fields`."""
    requires: Settings = field(default_factory=lambda: MODERN)
    """Fields of `ModelSpec` that must have this value."""
    code: bool = False
    """Whether the class is not in transformers but in `modeling_hybrid.py`, which is copied into the folder."""
    mlx_file: str | None = None
    """The file with the class for mlx-lm, which is copied into the folder; None if mlx-lm has the class."""
    optional: tuple[str, ...] = ()
    """Properties out of `OPTIONAL` that the class has."""
    also: tuple[str, ...] = ()
    """Further classes that `architectures` lists after this one."""

    def map_tensors(self, spec: ModelSpec) -> list[TensorMapping]:
        """List the mappings of all tensors of a model."""
        found = [
            map_tensor("embedding.weight", f"{self.outer.embedding}.weight"),
            *([] if spec.tie_embeddings else [map_tensor("head.weight", HEAD)]),
            *_norm(spec, "final_norm", self.outer.final_norm),
        ]
        if spec.learned_positions:
            found.append(map_tensor("positions.weight", "transformer.wpe.weight"))
        for i, kind in enumerate(spec.blocks):
            number, part = divmod(i, len(self.norms))
            layer = f"{self.outer.layers}.{number}"
            found += _norm(spec, f"norms.{i}", f"{layer}.{self.norms[part]}")
            name, tensors = self.blocks[kind]
            found += [tensor.within(f"blocks.{i}", f"{layer}.{name}", spec) for tensor in tensors]
        return found

    def config(self, spec: ModelSpec, dtype: str = "float32") -> Settings:
        """Return the whole content of `config.json`; dtype: torch's name of the type of the weights."""
        return {
            "architectures": [self.class_name, *self.also],
            "model_type": self.model_type,
            "vocab_size": spec.vocab_size,
            "tie_word_embeddings": spec.tie_embeddings,
            "use_cache": True,
            **({"model_file": self.mlx_file} if self.mlx_file else {}),  # mlx-lm loads its class from there
            **self.settings(spec),
            **{key: getattr(spec, field) for key, field in self.fields.items()},
            "bos_token_id": EOT_ID,
            "eos_token_id": EOT_ID,
            "pad_token_id": None,
            "dtype": dtype,
            "torch_dtype": dtype,  # transformers before 4.56, and mlx_lm.convert, which otherwise keeps fp32
            "transformers_version": WRITTEN_FOR,
        }


def _norm(spec: ModelSpec, ours: str, theirs: str) -> list[TensorMapping]:
    parts = ("weight", "bias") if spec.norm == "layernorm" else ("weight",)
    return [map_tensor(f"{ours}.{part}", f"{theirs}.{part}") for part in parts]


ATTENTION_FIELDS = {"hidden_size": "d_model", "max_position_embeddings": "max_seq_len"}


def attention_settings(spec: ModelSpec) -> Settings:
    """Return the other attention settings of Llama and its descendants."""
    scaling = rope_scaling(spec)
    return {
        "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "attention_dropout": 0.0,
        "rope_parameters": {"rope_theta": spec.rope_theta, "rope_type": "default", **scaling},
        "rope_theta": spec.rope_theta,  # what transformers 4 and mlx-lm read; Mixtral has another default
        **({"rope_scaling": scaling} if scaling else {}),  # what they read, too
    }


ROPE_NUMBERS = {
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_seq_len",
    },
}
"""Kinds of scaled rotary positions: the keys of their numbers, and the fields of `ModelSpec` that hold them."""


def rope_scaling(spec: ModelSpec) -> Settings:
    """Return the scaling of rotary positions as transformers names it; empty if they are not scaled.

    Raises UserError for an unknown one, in the record of a folder.
    """
    if spec.rope_scaling == "none":
        return {}
    if spec.rope_scaling not in ROPE_NUMBERS:
        raise UserError(f"rope_scaling={spec.rope_scaling!r:.40}: unknown")
    numbers = ROPE_NUMBERS[spec.rope_scaling]
    return {"rope_type": spec.rope_scaling, **{key: getattr(spec, name) for key, name in numbers.items()}}


def read_rope(config: UntrustedConfig) -> Settings:
    """Read theta and scaling of rotary positions, as fields of `ModelSpec`. Raises UserError."""
    found: Settings = {"rope_theta": config.positive_number("rope_theta")}
    parameters = UntrustedConfig(config.values["rope_parameters"], config.n_tensors)
    kind = parameters.values["rope_type"]
    if kind == "default":
        return found
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise UserError(f"rope_type={kind!r:.40}: this program has {' and '.join(ROPE_NUMBERS)} alone")
    found["rope_scaling"] = kind
    for key, name in ROPE_NUMBERS[kind].items():
        is_length = name == "rope_original_seq_len"
        found[name] = parameters.positive_int(key) if is_length else parameters.positive_number(key)
    if kind == "llama3" and found["rope_low_freq_factor"] >= found["rope_high_freq_factor"]:
        raise UserError("rope_parameters: low_freq_factor must be below high_freq_factor")
    return found


def read_heads(config: UntrustedConfig, width: str = "hidden_size", heads: str = "num_attention_heads") -> Settings:
    """Read number and width of the heads, as fields of `ModelSpec`; None where one follows from the others.

    width, heads: the keys of d_model and of the number of heads. Raises UserError.
    """
    d_model, n_heads = config.positive_int(width), config.positive_int(heads)
    has_dim, has_groups = "head_dim" in config.values, "num_key_value_heads" in config.values
    head_dim = config.positive_int("head_dim") if has_dim else max(1, d_model // n_heads)
    n_kv_heads = config.positive_int("num_key_value_heads") if has_groups else n_heads
    if n_heads % n_kv_heads:
        raise UserError(f"num_key_value_heads={n_kv_heads}: must divide {heads}={n_heads}")
    return {
        "head_dim": head_dim,
        "query_heads": None if n_heads * head_dim == d_model else n_heads,
        "kv_heads": None if n_kv_heads == n_heads else n_kv_heads,
    }
