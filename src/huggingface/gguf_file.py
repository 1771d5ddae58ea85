"""Write a model as a GGUF file, which llama.cpp, Ollama and LM Studio run.

Names and layouts are derived from those of transformers; the library `gguf` knows llama.cpp's names for them. As
`convert_hf_to_gguf.py` of llama.cpp, with tests against llama.cpp itself (`tests/huggingface/test_gguf.py`):

- rows of q and k are in the order of interleaved rotation where an architecture rotates so;
- A is stored as -exp(A_log), convolutions as (C, K), and experts of a layer in one tensor;
- norms, convolutions, routers, positions and vectors stay fp32, whatever the type of the matrices.
"""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.config.schema import ModelSpec, SamplingConfig, UserError
from src.data.tokenizer.bpe import PATTERNS
from src.huggingface.mapping import LLAMA_CPP_TESTED_WITH
from src.huggingface.mappings import mapping_of
from src.huggingface.tensor_file import state_shapes
from src.model.blocks.attention.rope import rope_of
from src.model.blocks.mamba1.cost import dt_rank

INSTALL = "pip install -c constraints.txt -e '.[gguf]'"
DTYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""Values of `dtype`, and what the library calls such a file."""
MARKER = "advanced_code_model.run"
"""Key by which a file is recognized as an export of this program."""
UNLIMITED = 1 << 20
"""Context of models without positions."""
ALWAYS_F32 = ("norm", "ssm_conv1d", "ffn_gate_inp", "position_embd")
"""Parts of names whose matrices llama.cpp needs in fp32."""
PADDING, NORMAL, CONTROL = 5, 1, 3
"""Types of tokens in GGUF."""


@dataclass(frozen=True)
class Format:
    """What llama.cpp calls an architecture, and how it stores it."""

    architecture: str
    has_interleaved_rotation: bool = False
    has_attention: bool = True
    has_state: bool = False
    has_scaled_frequencies: bool = False
    """Whether it reads a factor for each frequency of the rotary positions (`rope_freqs`)."""


FORMATS = {
    "LlamaForCausalLM": Format("LLAMA", has_interleaved_rotation=True, has_scaled_frequencies=True),
    "MixtralForCausalLM": Format("LLAMA", has_interleaved_rotation=True, has_scaled_frequencies=True),
    "Qwen2ForCausalLM": Format("QWEN2"),
    "Qwen3ForCausalLM": Format("QWEN3"),
    "GPT2LMHeadModel": Format("GPT2"),
    "MambaForCausalLM": Format("MAMBA", has_attention=False, has_state=True),
    "Mamba2ForCausalLM": Format("MAMBA2", has_attention=False, has_state=True),
    "GraniteMoeHybridForCausalLM": Format("GRANITE_HYBRID", has_interleaved_rotation=True, has_state=True),
}
"""Formats by the class of transformers that computes the same as a model."""


def refusal_of(spec: ModelSpec) -> str | None:
    """Return why llama.cpp cannot run a model; None if it can. Raises: UserError as `mapping_of`."""
    name = mapping_of(spec).class_name
    if name not in FORMATS:
        return f"blocks {', '.join(dict.fromkeys(spec.blocks))}: llama.cpp has no model with these"
    if FORMATS[name].has_state and spec.d_inner != 2 * spec.d_model:
        return f"d_inner={spec.d_inner}: llama.cpp needs twice d_model={spec.d_model}"
    if name == "Qwen2ForCausalLM" and spec.attention_width != spec.d_model:
        return f"n_heads={spec.n_heads}: llama.cpp has heads of d_model / n_heads alone in its qwen2"
    if spec.rope_scaling == "llama3" and FORMATS[name].has_attention and not FORMATS[name].has_scaled_frequencies:
        return f"rope_scaling=llama3: llama.cpp scales no positions so in its {FORMATS[name].architecture.lower()}"
    return None


def format_of(spec: ModelSpec) -> Format:
    """Return the format of a model. Raises: UserError if llama.cpp has no such model, or `gguf` is not installed."""
    if refusal := refusal_of(spec):
        raise UserError(f"{refusal} (in {LLAMA_CPP_TESTED_WITH}); use format=huggingface")
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"gguf is not installed; {INSTALL}")
    return FORMATS[mapping_of(spec).class_name]


def write_gguf(
    path: Path, spec: ModelSpec, weights: Mapping[str, Tensor], tokenizer: bytes, eot: str, dtype: str, name: str
) -> list[str]:
    """Write a model, given its `state_dict` and its tokenizer.json, to a new file, with one tensor in memory at a time.

    eot: the token that begins and ends a text. dtype: type of the matrices, a key of `DTYPES`. name: shown by clients.

    Returns: lines on what the file does not keep. Raises: UserError as `format_of` and `describe_tokenizer`.
    """
    form = format_of(spec)
    vocabulary = describe_tokenizer(tokenizer, eot, spec.vocab_size)
    gguf: Any = importlib.import_module("gguf")
    architecture = gguf.MODEL_ARCH[form.architecture]
    writer: Any = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    writer.add_string(MARKER, name)
    writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype]])
    _add_sizes(writer, spec, form)
    _add_tokenizer(writer, vocabulary)
    wanted, not_quantized = gguf.GGMLQuantizationType[dtype.upper()], 0
    n_layers = len(spec.blocks) // len(mapping_of(spec).norms)
    names = gguf.get_tensor_name_map(architecture, n_layers)
    kinds: list[Any] = []
    meta = {name: torch.empty(shape, device="meta") for name, shape in state_shapes(spec).items()}
    for theirs, tensor in _tensors(spec, meta, form):  # the header lists all tensors before the first one
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert ours is not None, f"{theirs} has no name in llama.cpp"
        kind = wanted
        if tensor.ndim < 2 or not ours.endswith(".weight") or any(part in ours for part in ALWAYS_F32):
            kind = gguf.GGMLQuantizationType.F32
        elif kind == gguf.GGMLQuantizationType.Q8_0 and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind, not_quantized = gguf.GGMLQuantizationType.F16, not_quantized + 1
        in_block, bytes_of_block = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = tensor.numel() // in_block * bytes_of_block
        writer.add_tensor_info(ours, tuple(tensor.shape), np.dtype(np.float32), n_bytes, raw_dtype=kind)
        kinds.append(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for kind, (_, tensor) in zip(kinds, _tensors(spec, weights, form), strict=True):
        values = np.ascontiguousarray(tensor.float().numpy())
        writer.write_tensor_data(gguf.quants.quantize(values, kind))
    writer.close()
    notes = [] if vocabulary.pattern else [NO_PATTERN]
    if not_quantized:
        notes.append(f"{not_quantized} matrices have rows that 32 does not divide: they are f16 instead of {dtype}")
    return notes


def _add_sizes(writer: Any, spec: ModelSpec, form: Format) -> None:
    """Add the sizes of a model, in the terms of llama.cpp."""
    n_layers = len(spec.blocks) // len(mapping_of(spec).norms)
    writer.add_block_count(n_layers)
    writer.add_embedding_length(spec.d_model)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_context_length(spec.max_seq_len if form.has_attention else UNLIMITED)
    writer.add_feed_forward_length(
        spec.d_ff if "mlp" in spec.blocks else spec.expert_d_ff if "moe" in spec.blocks else 0
    )
    add_eps = writer.add_layer_norm_eps if spec.norm == "layernorm" else writer.add_layer_norm_rms_eps
    add_eps(spec.norm_eps)
    if form.has_attention:
        attends = [kind != "mamba" for kind in spec.blocks[:: len(mapping_of(spec).norms)]]
        writer.add_head_count(spec.n_heads)
        writer.add_head_count_kv(spec.n_kv_heads if all(attends) else [spec.n_kv_heads * layer for layer in attends])
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
        if spec.position == "rope":
            writer.add_rope_dimension_count(spec.head_dim)
            writer.add_rope_freq_base(spec.rope_theta)
        if spec.rope_scaling == "linear":
            writer.add_rope_scaling_type(importlib.import_module("gguf").RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(spec.rope_factor)
    else:
        writer.add_head_count(0)
    if "moe" in spec.blocks:
        writer.add_expert_count(spec.n_experts)
        writer.add_expert_used_count(spec.top_k)
    if form.has_state:
        writer.add_ssm_conv_kernel(spec.d_conv)
        writer.add_ssm_inner_size(spec.d_inner)
        writer.add_ssm_state_size(spec.d_state)
        writer.add_ssm_time_step_rank(dt_rank(spec) if "mamba1" in spec.blocks else spec.n_ssm_heads)
        writer.add_ssm_group_count(spec.n_groups)
    if form.architecture == "GRANITE_HYBRID":
        writer.add_rope_scaling_finetuned(True)  # otherwise its attention does not rotate
        writer.add_attention_scale(spec.head_dim**-0.5)
        for add in (writer.add_embedding_scale, writer.add_residual_scale, writer.add_logit_scale):
            add(1.0)


def _tensors(spec: ModelSpec, weights: Mapping[str, Tensor], form: Format) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in llama.cpp's layout, by names that the library maps."""
    if spec.rope_scaling == "llama3":  # by what each frequency is divided
        scaled, cpu = rope_of(spec), torch.device("cpu")
        unscaled = scaled._replace(scaling="none")
        yield "rope.freqs.weight", unscaled.frequencies(spec.head_dim, cpu) / scaled.frequencies(spec.head_dim, cpu)
    for tensor in mapping_of(spec).map_tensors(spec):
        value = weights[tensor.ours].detach()
        if ".experts." in tensor.theirs[0]:  # ours: (E, rows, columns), w1 and w3 on top of each other
            layer = tensor.theirs[0].split(".")[2]
            parts = [name.rsplit(".", 2)[1] for name in tensor.theirs[: len(tensor.theirs) // spec.n_experts]]
            for part, rows in zip(parts, value.chunk(len(parts), dim=1), strict=True):
                yield f"layers.{layer}.feed_forward.experts.{part}.weight", rows
            continue
        for name, part in tensor.to_transformers(value).items():
            yield from _convert(name, part, spec, form)


def _convert(name: str, value: Tensor, spec: ModelSpec, form: Format) -> Iterator[tuple[str, Tensor]]:
    if name.endswith(("q_proj.weight", "k_proj.weight")) and form.has_interleaved_rotation:
        halves = value.view(-1, 2, spec.head_dim // 2, value.shape[-1])  # transformers rotates a head's two halves
        yield name, halves.transpose(1, 2).reshape(value.shape)
    elif name.endswith("shared_mlp.input_linear.weight"):
        for part, rows in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
            yield name.replace("shared_mlp.input_linear", f"mlp.{part}"), rows
    elif name.endswith("shared_mlp.output_linear.weight"):
        yield name.replace("shared_mlp.output_linear", "mlp.down_proj"), value
    elif name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        yield name, value.T
    elif name.endswith("conv1d.weight"):
        yield name, value.squeeze(1)
    elif name.endswith((".A_log", ".D")):
        value = -torch.exp(value) if name.endswith(".A_log") else value
        yield name, value if "mamba1" in spec.blocks else value[:, None]
    elif name.endswith(".dt_bias"):
        yield name.replace(".dt_bias", ".dt_proj.bias"), value
    elif name.endswith((".mixer.norm.weight", ".mamba.norm.weight")):
        yield name, value.view(spec.n_groups, -1)  # (groups, channels of a group)
    else:
        yield name, value


NO_PATTERN = (
    "llama.cpp does not have the pattern by which this tokenizer cuts text, so some prompts give other tokens there; "
    "train with tokenizer.pattern=qwen2 for the same tokens"
)


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    types: list[int]
    merges: list[str]
    eot_id: int
    pattern: str | None
    """llama.cpp's name of the pattern that cuts text before BPE; None: it does not have it."""


def describe_tokenizer(tokenizer: bytes, eot: str, vocab_size: int) -> Vocabulary:
    """Read a byte-level BPE from a tokenizer.json. Raises: UserError for another kind of tokenizer."""
    content = json.loads(tokenizer)
    model = content["model"]
    if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(content["pre_tokenizer"]):
        raise UserError("tokenizer: llama.cpp has no such tokenizer, only a byte-level bpe; use format=huggingface")
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    by_id = {index: token for token, index in {**model["vocab"], **added}.items()}
    size = max(vocab_size, len(by_id))
    types = [PADDING if index not in by_id else CONTROL if by_id[index] in added else NORMAL for index in range(size)]
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    pattern = "qwen2" if json.dumps(PATTERNS["qwen2"]) in json.dumps(content["pre_tokenizer"]) else None
    return Vocabulary(tokens, types, merges, added[eot] if eot in added else model["vocab"][eot], pattern)


def _add_tokenizer(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pattern or "qwen2")  # the nearest to ours
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(vocabulary.eot_id)
    writer.add_add_bos_token(True)  # documents begin with it
    writer.add_add_eos_token(False)


def modelfile(file: str, sampling: SamplingConfig, eot: str) -> str:
    """Return the Modelfile with which `ollama create` imports a GGUF file beside it: text continued as it is."""
    lines = [
        "# A base model: it continues a text and answers no questions.",
        f"FROM ./{file}",
        'TEMPLATE "{{ .Prompt }}"',
        f"PARAMETER temperature {sampling.temperature:g}",
        f"PARAMETER top_k {sampling.top_k}",
        "PARAMETER top_p 1",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_predict {sampling.max_new_tokens}",
        f'PARAMETER stop "{eot}"',
    ]
    return "\n".join(lines) + "\n"
