"""Write a model as transformers reads it: config.json, model.safetensors, tokenizer, defaults of generation, README.

`advanced_code_model.json` is beside them for what those files cannot hold: the whole `ModelSpec`, and what the caller
wants to find again.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from src.config.schema import ModelSpec, SamplingConfig
from src.data.tokenizer.bpe import EOT, EOT_ID, TOKENIZER_CONFIG, tokenizer_config
from src.huggingface.hybrid_mappings import MODULE
from src.huggingface.mapping import WRITTEN_FOR, Settings
from src.huggingface.mappings import twin_of
from src.huggingface.post_processor import add_post_processor
from src.runtime.atomic_files import apply_umask, write_bytes, write_json, write_text
from src.runtime.errors import raise_os_errors

RECORD = "advanced_code_model.json"
RECORD_VERSION = 1


def write_folder(
    folder: Path,
    spec: ModelSpec,
    weights: dict[str, Tensor],
    tokenizer: bytes,
    sampling: SamplingConfig,
    record: dict[str, Any],
    card: str,
    eot: str = EOT,
) -> None:
    """Fill an empty folder with a model, given its `state_dict` and its tokenizer.json.

    record: JSON that `read_folder` gives back. eot: the token that begins and ends a text. Raises UserError where no
    class of transformers computes the same.
    """
    twin = twin_of(spec)
    ties = twin.ties(spec)
    assert {tie.ours for tie in ties} == weights.keys(), "a tensor of this model has no counterpart"
    theirs = {name: part for tie in ties for name, part in tie.to_theirs(weights[tie.ours].cpu()).items()}
    with raise_os_errors():
        save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    apply_umask(folder / "model.safetensors")
    eot_id = Tokenizer.from_buffer(tokenizer).token_to_id(eot)
    assert eot_id is not None, "load_tokenizer has seen to it"
    config = twin.config(spec)
    write_json(folder / "config.json", config | {"bos_token_id": eot_id, "eos_token_id": eot_id})
    write_json(folder / "generation_config.json", generation_config(sampling, config["use_cache"], eot_id))
    for_clients, replaced = add_post_processor(tokenizer, eot, eot_id)
    write_bytes(folder / "tokenizer.json", for_clients)
    longest = {"model_max_length": spec.learned_positions} if spec.learned_positions else {}
    # Without the list, transformers 4 gives `generate` token types, which it refuses.
    clients = {"add_bos_token": True, "model_input_names": ["input_ids", "attention_mask"]}
    write_json(folder / TOKENIZER_CONFIG, {**tokenizer_config(eot), **clients, **longest})
    said = {"format_version": RECORD_VERSION, "spec": spec.to_dict(), "post_processor": replaced, **record}
    write_json(folder / RECORD, said)
    write_text(folder / "README.md", card)
    if twin.code:
        write_bytes(folder / f"{MODULE}.py", Path(__file__).with_name(f"{MODULE}.py").read_bytes())


def generation_config(sampling: SamplingConfig, use_cache: bool, eot_id: int = EOT_ID) -> Settings:
    """Write how text is drawn by default, as `src.generate` would with these settings.

    No length: a length that stands here takes precedence over the one that a caller gives by the other name.
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
