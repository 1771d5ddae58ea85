"""The recipe: norm, positions and mlp."""

from dataclasses import dataclass

from src.config.setting import FACTOR, LENGTH, MISSING, Range, setting


@dataclass
class RecipeConfig:
    """The parts that every architecture shares."""

    name: str = setting(MISSING, "Name of the recipe.", form="name")
    norm: str = setting(MISSING, "Normalization before each block.", choices=("rmsnorm", "layernorm"))
    position: str = setting(
        MISSING,
        "Position encoding. learned: added to the token embedding wherever the pattern has attention.",
        choices=("rope", "learned"),
    )
    mlp: str = setting(
        MISSING,
        "Kind of mlp. swiglu: width 2/3 d_ff, rounded up to a multiple of 8. gelu: the tanh form.",
        choices=("swiglu", "gelu"),
    )
    bias: bool = setting(
        MISSING, "Biases in attention, mlp and layernorm. Experts, mamba projections and the head have none."
    )
    max_seq_len: int = setting(4096, "Rows of the table of learned positions, the longest context.", LENGTH)
    norm_eps: float = setting(
        1e-5,
        "Number that norms add to the mean square. In gated_deltanet, 1e-5 for the norm of each head.",
        Range(0, 1, above=True),
    )
    rope_theta: float = setting(
        10000.0, "Base of the wavelengths of rotary positions. As in RoFormer (Su et al., 2021).", Range(1, 10**12)
    )
    qkv_bias: bool = setting(False, "Biases of queries, keys and values alone. As in Qwen2. `bias` has them already.")
    rope_scaling: str = setting(
        "none",
        "Scaling of rotary positions. linear: every frequency divided by rope_factor (Chen et al., 2023). llama3: the "
        "low ones alone, as in Llama 3.1.",
        choices=("none", "linear", "llama3"),
    )
    rope_factor: float = setting(
        1.0, "Number that rope_scaling divides by. For a context as many times as long.", Range(1, 10**6)
    )
    rope_low_freq_factor: float = setting(
        1.0,
        "llama3 divides in full below this number of turns. Turns of a pair of channels within rope_original_seq_len; "
        "pairs between both limits are divided in part.",
        FACTOR,
    )
    rope_high_freq_factor: float = setting(
        4.0, "llama3 divides nothing above this number of turns. Larger than rope_low_freq_factor.", FACTOR
    )
    rope_original_seq_len: int = setting(8192, "Context that llama3 extends. What the model was trained on.", LENGTH)
    tie_embeddings: bool = setting(
        False, "The head shares the weights of the token embedding. As in GPT-2 (Press and Wolf, 2017)."
    )
