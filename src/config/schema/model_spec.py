"""The description of one model."""

from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, get_args, get_origin


@dataclass(frozen=True)
class ModelSpec:
    """One model, every number decided: what matching solved, what a checkpoint records, what `build` reads."""

    architecture: str
    blocks: tuple[str, ...]
    vocab_size: int
    d_model: int
    head_dim: int
    d_ff: int
    """Width of the mlp blocks as built."""
    expert_d_ff: int
    n_experts: int
    top_k: int
    aux_loss_weight: float
    router_z_loss_weight: float
    window: int
    router_bias_rate: float
    d_state: int
    d_conv: int
    d_inner: int
    chunk_size: int
    norm: str
    position: str
    mlp: str
    bias: bool
    max_seq_len: int
    settings: dict[str, Any]
    """What blocks of your own read."""
    tie_embeddings: bool = False
    """Whether the head has the weights of the embedding; models of earlier versions do not say it."""

    negative_eigenvalues: bool = False
    """Of the transition of a recurrence's state; models of earlier versions do not say it."""

    has_decoder: bool = False
    """Whether all positions are read from the last hidden state, as the compression task asks."""

    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    """Of norms and rotary positions; models of earlier versions do not say them."""

    query_heads: int | None = None
    """Heads of queries; None: `d_model / head_dim`. Models of earlier versions say none of the following fields."""
    kv_heads: int | None = None
    """Heads of keys and values; None: one for each head of queries."""
    qkv_bias: bool = False
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_seq_len: int = 8192
    n_groups: int = 1
    """Of heads of mamba that share B and C."""

    @property
    def n_heads(self) -> int:
        return self.query_heads or self.d_model // self.head_dim

    @property
    def n_kv_heads(self) -> int:
        return self.kv_heads or self.n_heads

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads."""
        return self.n_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys of all heads, and of the values."""
        return self.n_kv_heads * self.head_dim

    @property
    def n_ssm_heads(self) -> int:
        return self.d_inner // self.head_dim

    @property
    def learned_positions(self) -> int:
        """Rows of the position table: none where no block attends, since a recurrence knows the order by itself."""
        attends = any("attention" in kind for kind in self.blocks)
        return self.max_seq_len if attends and self.position == "learned" else 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "blocks": list(self.blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelSpec":
        """Read what `to_dict` wrote. Raises KeyError or TypeError where a value is missing or cannot be."""
        typed: dict[str, Any] = {**values, "blocks": tuple(values["blocks"])}
        spec = cls(**typed)
        for item in fields(cls):
            value: Any = getattr(spec, item.name)
            kinds = get_args(item.type) if isinstance(item.type, UnionType) else (get_origin(item.type) or item.type,)
            fits = type(value) in ((int, float) if float in kinds else kinds)
            if not fits or (type(value) is int and value < 1 and int in kinds):
                raise TypeError(f"{item.name}: {value!r}")
        return spec
