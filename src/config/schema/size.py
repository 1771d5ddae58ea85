"""The size of the reference model."""

from dataclasses import dataclass

from src.config.setting import LENGTH, MISSING, RATE, SEQUENCES, TOKENS, WIDTH, Range, setting


@dataclass
class SizeConfig:
    """Width and depth of the reference model, and defaults of its training."""

    name: str = setting(MISSING, "Name of the size, a part of the names of its runs.", form="name")
    d_model: int = setting(MISSING, "Width of the residual stream.", Range(1, 2**17))
    n_layers: int = setting(MISSING, "Layers of the dense reference. A layer is two residual blocks.", Range(1, 1024))
    head_dim: int = setting(64, "Width of a head.", Range(1, 2**17))
    n_heads: int | None = setting(
        None,
        "Heads of queries in attention. null: d_model / head_dim. Another number makes attention wider or narrower "
        "than the model, as in Qwen3. It counts in every model of a comparison.",
        Range(1, 4096),
    )
    n_kv_heads: int | None = setting(
        None,
        "Heads of keys and values. null: one for each head of queries. Fewer are grouped-query attention (Ainslie et "
        "al., 2023): the cache of decoding shrinks in proportion. It counts in every model of a comparison.",
        Range(1, 4096),
    )
    d_ff: int | None = setting(
        None, "Width of the reference's mlp before the recipe's factor. null: 4 * d_model.", WIDTH
    )
    seq_len: int = setting(MISSING, "Default of training.seq_len.", LENGTH)
    global_batch_size: int = setting(MISSING, "Default of training.global_batch_size.", SEQUENCES)
    micro_batch_size: int = setting(MISSING, "Default of training.micro_batch_size.", SEQUENCES)
    max_tokens: int = setting(MISSING, "Default of training.max_tokens.", TOKENS)
    learning_rate: float = setting(MISSING, "Default of optimizer.learning_rate.", RATE)
