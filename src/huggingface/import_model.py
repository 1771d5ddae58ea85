"""Read a folder of transformers as a model, without trusting its content.

Only JSON and safetensors are read: no pickle is opened, no `modeling_*.py` imported. The names and shapes of the
tensors are compared with those that config.json implies before memory is allocated for them.
"""

import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from torch import Tensor

from src.config.schema import ArchitectureConfig, ModelSpec, RecipeConfig, SizeConfig, UserError
from src.data.tokenizer.bpe import count_ids, read_eos_token
from src.huggingface.defaults import DEFAULTS, ROPE_THETA, complete_config
from src.huggingface.export_model import RECORD, RECORD_VERSION
from src.huggingface.mapping import MODERN, Mapping, Settings, UntrustedConfig, read_rope
from src.huggingface.mappings import MAPPINGS, mapping_of
from src.huggingface.post_processor import remove_post_processor
from src.huggingface.weight_files import find_weights, read_object, read_weights
from src.runtime.atomic_files import read_bytes
from src.runtime.errors import first_line

UNREAD = {
    *(
        "architectures",
        "auto_map",
        "model_file",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "dtype",
        "torch_dtype",
        "use_cache",
        "n_ctx",
    ),
    *("transformers_version", "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"),
}
"""Settings that we write and that do not change what a model computes in transformers."""
WITHOUT_EFFECT = {
    *UNREAD,
    *("initializer_range", "rescale_prenorm_residual", "output_router_logits", "router_aux_loss_coef"),
    *("max_window_layers",),  # of Qwen3, without use_sliding_window
    *("router_jitter_noise", "pretraining_tp", "reorder_and_upcast_attn", "use_mambapy", "use_associative_scan"),
    *("time_step_min", "time_step_max", "time_step_floor", "time_step_scale", "time_step_init_scheme"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    # Of every configuration, in some version.
    *("return_dict", "chunk_size_feed_forward", "id2label", "label2id", "_name_or_path", "is_encoder_decoder"),
    *("tokenizer_class", "problem_type", "finetuning_task", "prefix", "sep_token_id", "decoder_start_token_id"),
    *("is_decoder", "add_cross_attention", "output_attentions", "output_hidden_states", "output_scores", "torchscript"),
    *("pruned_heads", "tie_encoder_decoder", "use_bfloat16", "tf_legacy_loss", "task_specific_params"),
    *("gradient_checkpointing", "_attn_implementation_autoset", "return_dict_in_generate", "remove_invalid_values"),
    # Of generation, which version 4 kept here.
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "num_return_sequences"),
    # In the first Mamba checkpoints, from the library that they were trained with.
    *("d_model", "d_inner", "n_layer", "ssm_cfg", "rms_norm", "fused_add_norm", "pad_vocab_size_multiple"),
    *("norm_before_gate", "is_llama_config"),  # of Mamba-2, and of SmolLM
}
"""Those, and settings that we do not write and that do not change it either."""
WITHOUT_EFFECT_IF_FALSE = ("rope_interleaved", "use_mrope")
"""Of SmolLM and Qwen2."""


NORM_EPS = ("rms_norm_eps", "layer_norm_epsilon")
"""Keys for the number that norms add; a class has one of them."""
LACKING = {
    "attention_bias": "biases of attention alone",
    "mlp_bias": "biases of the mlp alone",
    "hidden_act": "this activation",
    "activation_function": "this activation",
    **dict.fromkeys(("rope_parameters", "partial_rotary_factor"), "partial rotary positions"),
    "sliding_window": "a window in all layers of such a model",
    "time_step_limit": "limits of the time step",
    "use_bias": "biases of the projections",
    "use_conv_bias": "convolutions without a bias",
    "attention_multiplier": "another scale of attention",
    "quantization_config": "quantized weights",
    **dict.fromkeys(("embedding_multiplier", "logits_scaling", "residual_multiplier"), "scales of parts of the model"),
}
"""The part of a model that this program lacks, by the setting that asks for it."""
OTHER_TYPES = {
    "mistral": "its own class; save it as llama where it has no window",
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "norms that add 1 to their weight"),
    "phi3": "packed tensors of that class",
    "gpt_neox": "attention and mlp in parallel",
    "gpt_neo": "attention without scale",
    "qwen3_moe": "experts beside QK-norm",
    "bamba": "partial rotary positions",
    "falcon_mamba": "norms of B, C and dt",
    **dict.fromkeys(("t5", "mt5", "bart", "marian", "whisper"), "an encoder"),
}
"""What this program lacks of some other classes."""


class Imported(NamedTuple):
    """The content of a folder."""

    spec: ModelSpec
    mapping: Mapping
    weights: dict[str, Tensor]
    """A `state_dict` of `LanguageModel`, in fp32."""
    tokenizer: bytes
    """tokenizer.json, without the post-processor that an export adds."""
    eot: str
    """Its token that begins and ends a text."""
    record: Settings | None
    """The record passed to `write_folder`, only checked to be a dict; None for folders that we did not write."""


def read_folder(folder: Path) -> Imported:
    """Read a model. Raises UserError naming the file and its problem."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = find_weights(folder)
    config = read_object(folder / "config.json")
    path = folder / RECORD
    record = read_object(path) if os.path.lexists(path) else None
    try:
        spec, mapping = _read_spec(config, len(files.shapes))
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    if record is not None:
        try:
            spec = _read_recorded_spec(spec, record)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    tokenizer, eot = _read_tokenizer(folder / "tokenizer.json", spec.vocab_size, record)
    weights = read_weights(files, spec, mapping)
    return Imported(spec, mapping, weights, tokenizer, eot, record)


def _read_spec(config: Settings, n_tensors: int) -> tuple[ModelSpec, Mapping]:
    """Read the sizes from config.json, and compare it with the config that these sizes would give."""
    model_type = config.get("model_type")
    mapping = MAPPINGS.get(model_type) if isinstance(model_type, str) else None
    if mapping is None:
        lacking = OTHER_TYPES.get(model_type) if isinstance(model_type, str) else None
        reason = f" (this program lacks {lacking})" if lacking else ""
        raise UserError(f"model_type={model_type!r:.40}: unsupported{reason}; must be one of {', '.join(MAPPINGS)}")
    for key, has_code in {"auto_map": mapping.code, "model_file": mapping.mlx_file}.items():
        if not has_code and config.get(key) is not None:
            raise UserError(f"{key}: code in a folder is never executed; {mapping.class_name} needs none")
    found = complete_config(mapping.model_type, config)
    untrusted = UntrustedConfig(found, n_tensors)
    fields_read = {"vocab_size": "vocab_size", **mapping.fields}
    sizes = {**untrusted.read_fields(fields_read), **mapping.sizes(untrusted)}
    sizes["tie_embeddings"] = found["tie_word_embeddings"] is True
    sizes["norm_eps"] = untrusted.positive_number(next(key for key in NORM_EPS if key in DEFAULTS[mapping.model_type]))
    if mapping.model_type in ROPE_THETA:
        sizes |= read_rope(untrusted)
    spec = ModelSpec.from_dict({**_default_fields(), **MODERN, **mapping.requires, **sizes})
    _check_sizes(spec)
    if mapping_of(spec) is not mapping:
        raise UserError(f"model_type={model_type}: its layers require model_type={mapping_of(spec).model_type}")
    wanted = complete_config(mapping.model_type, mapping.config(spec))
    for key, value in wanted.items():
        if key not in UNREAD:
            _compare_setting(found, key, value, is_default=config.get(key) is None)
    for key, value in config.items():
        is_off = key in WITHOUT_EFFECT_IF_FALSE and value is False
        if key not in WITHOUT_EFFECT and key not in wanted and found.get(key) is not None and not is_off:
            shown = key if key.isidentifier() else f"{key!r:.60}"
            raise UserError(f"{shown}={value!r:.40}: unknown setting of {mapping.class_name}{_describe_lack(key)}")
    return spec, mapping


def _default_fields() -> Settings:
    """Return values for the fields of `ModelSpec` that a model without such blocks does not use."""
    defaults = ArchitectureConfig()
    values = {
        item.name: getattr(defaults, item.name, None if item.default is MISSING else item.default)
        for item in fields(ModelSpec)
    }
    known = {name: 1 if value is None else value for name, value in values.items()}
    of_recipe = ("norm_eps", "max_seq_len", *(name for name in known if name.startswith("rope_")))
    recipe = {name: getattr(RecipeConfig(), name) for name in of_recipe}
    heads = {"head_dim": SizeConfig().head_dim, "query_heads": None, "kv_heads": None}
    return {**known, **recipe, **heads, "architecture": "imported", "qkv_bias": False}


def _check_sizes(spec: ModelSpec) -> None:
    has_attention = any("attention" in kind for kind in spec.blocks)
    if has_attention and spec.position == "rope" and spec.head_dim % 2:
        raise UserError(f"head_dim={spec.head_dim}: must be even, since RoPE rotates pairs")
    if "mamba" in spec.blocks and spec.d_inner % spec.head_dim:
        raise UserError(f"expand: {spec.d_inner} channels are not a multiple of the size of a head, {spec.head_dim}")
    if "mamba" in spec.blocks and spec.n_ssm_heads % spec.n_groups:
        raise UserError(f"n_groups={spec.n_groups}: must divide the {spec.n_ssm_heads} heads")
    if "moe" in spec.blocks and spec.top_k > spec.n_experts:
        raise UserError(f"num_experts_per_tok={spec.top_k}: more than the {spec.n_experts} experts there are")


def _compare_setting(found: Settings, key: str, wanted: Any, is_default: bool) -> None:
    value, origin = found.get(key), " (the default of transformers)" if is_default else ""
    if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
        raise UserError(f"{key}={value!r:.60}{origin}: not supported, only {wanted!r} is{_describe_lack(key)}")


def _describe_lack(key: str) -> str:
    return f"; this program lacks {LACKING[key]}" if key in LACKING else ""


def _read_recorded_spec(spec: ModelSpec, record: Settings) -> ModelSpec:
    """Read the whole spec from our own file; it must not contradict config.json."""
    if record.get("format_version") != RECORD_VERSION:
        raise UserError(f"format_version={record.get('format_version')!r:.40}: this program reads {RECORD_VERSION}")
    try:
        whole = ModelSpec.from_dict(record["spec"])
        if not all(isinstance(kind, str) for kind in whole.blocks):
            raise TypeError("blocks: must be names")
    except (KeyError, TypeError) as error:
        raise UserError(f"spec: not the description of a model ({error})") from None
    if _mapping_config(whole) != _mapping_config(spec):
        raise UserError("spec: describes another model than config.json")
    return whole


def _mapping_config(spec: ModelSpec) -> Settings | None:
    """Return the settings that decide what a model computes; None if transformers has no such model."""
    try:
        return mapping_of(spec).config(spec)
    except (UserError, ArithmeticError):  # a JSON number may be too large for a float
        return None


def _read_tokenizer(path: Path, vocab_size: int, record: Settings | None) -> tuple[bytes, str]:
    """Read a tokenizer and its end-of-text token. It may have fewer tokens than the model, whose table was padded."""
    content = read_bytes(path, allow_links=True)
    tokenizer = _open_tokenizer(path, content)
    eot = read_eos_token(path)
    eot_id = tokenizer.token_to_id(eot)
    if eot_id is None:
        raise UserError(f"{path}: has no token {eot[:60]!r} to end a text; name its own in tokenizer_config.json")
    if count_ids(tokenizer) > vocab_size:
        raise UserError(f"{path}: has {count_ids(tokenizer)} tokens, config.json has vocab_size={vocab_size}")
    try:
        restored = remove_post_processor(content, eot, eot_id, (record or {}).get("post_processor", "null"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path.with_name(RECORD)}: post_processor: not valid for a tokenizer ({error})") from None
    _open_tokenizer(path, restored)
    return restored, eot


def _open_tokenizer(path: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not a tokenizer ({first_line(error)})") from None
