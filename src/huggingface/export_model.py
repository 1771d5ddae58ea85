"""Write a model as transformers reads it: config.json, model.safetensors, tokenizer, generation defaults, README.

`advanced_code_model.json` holds what those files cannot: the whole `ModelSpec` and the caller's record.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from src.config.schema import ModelSpec, SamplingConfig
from src.data.tokenizer.bpe import EOT, EOT_ID, TOKENIZER_CONFIG, tokenizer_config
from src.huggingface.hybrid_mappings import MODULE
from src.huggingface.mapping import WRITTEN_FOR, Settings
from src.huggingface.mappings import mapping_of
from src.huggingface.post_processor import add_post_processor
from src.huggingface.tensor_file import state_shapes, write_tensors
from src.runtime.atomic_files import write_bytes, write_json, write_text

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
"""Values of `dtype`."""
RECORD = "advanced_code_model.json"
RECORD_VERSION = 1


def write_folder(
    folder: Path,
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    tokenizer: bytes,
    sampling: SamplingConfig,
    record: dict[str, Any],
    card: str,
    eot: str = EOT,
    dtype: str = "f32",
) -> None:
    """Fill an empty folder with a model, given its `state_dict` and its tokenizer.json.

    record: JSON that `read_folder` returns. eot: the token that begins and ends a text. dtype: type of the weights, a
    key of `DTYPES`. Raises UserError if no class of transformers computes the same.
    """
    mapping = mapping_of(spec)
    tensors = mapping.map_tensors(spec)
    ours = state_shapes(spec)
    assert {tensor.ours for tensor in tensors} == weights.keys() == ours.keys(), "a tensor has no counterpart"
    write_tensors(
        folder / "model.safetensors",
        {
            name: shape
            for tensor in tensors
            for name, shape in zip(tensor.theirs, tensor.shapes(ours[tensor.ours]), strict=True)
        },
        (item for tensor in tensors for item in tensor.to_transformers(weights[tensor.ours].cpu()).items()),
        DTYPES[dtype],
    )
    eot_id = Tokenizer.from_buffer(tokenizer).token_to_id(eot)
    assert eot_id is not None, "checked by load_tokenizer"
    config = mapping.config(spec, str(DTYPES[dtype]).removeprefix("torch."))
    write_json(folder / "config.json", config | {"bos_token_id": eot_id, "eos_token_id": eot_id})
    write_json(folder / "generation_config.json", generation_config(sampling, config["use_cache"], eot_id))
    with_eot, replaced = add_post_processor(tokenizer, eot, eot_id)
    write_bytes(folder / "tokenizer.json", with_eot)
    longest = {"model_max_length": spec.learned_positions} if spec.learned_positions else {}
    # Without the list, transformers 4 passes token types to `generate`, which rejects them.
    options = {"add_bos_token": True, "model_input_names": ["input_ids", "attention_mask"]}
    write_json(folder / TOKENIZER_CONFIG, {**tokenizer_config(eot), **options, **longest})
    content = {"format_version": RECORD_VERSION, "spec": spec.to_dict(), "post_processor": replaced, **record}
    write_json(folder / RECORD, content)
    write_text(folder / "README.md", card)
    if mapping.code:
        write_bytes(folder / f"{MODULE}.py", Path(__file__).with_name(f"{MODULE}.py").read_bytes())
    if mapping.mlx_file:
        write_bytes(folder / mapping.mlx_file, Path(__file__).with_name(mapping.mlx_file).read_bytes())


def generation_config(sampling: SamplingConfig, use_cache: bool, eot_id: int = EOT_ID) -> Settings:
    """Return the default sampling settings, equivalent to those of `src.generate`.

    They have no length: it would take precedence over a length that a caller passes under the other name.
    """
    drawn: Settings = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": 1.0}
    return {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot_id),
        **drawn,
        "use_cache": use_cache,
        "transformers_version": WRITTEN_FOR,
    }
