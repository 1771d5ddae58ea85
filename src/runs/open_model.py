"""Open the model of a run to write text."""

from pathlib import Path

from src.cli.compose import check_has_text
from src.config.schema import RuntimeConfig, UserError
from src.data.tokenizer.bpe import get_eot_id, load_tokenizer
from src.inference.text_model import TextModel
from src.model.build import build_model
from src.runtime.device import open_device
from src.training.checkpoint import find_checkpoint, load_weights


def open_text_model(run: str, device: str, threads: int | None) -> TextModel:
    """Open the best checkpoint of a run's last stage, in fp32.

    Raises: UserError if there is none, it was trained on a task and not on text, or there is no such device.
    """
    try:
        info = find_checkpoint(Path(run).expanduser().resolve(), "best")
        check_has_text(info.folder.parents[2])
    except UserError as error:  # its message starts with the path
        raise UserError(f"run={error}") from None
    folder = info.folder.parents[2]
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    opened = open_device(RuntimeConfig("generate", device, "fp32", threads=threads))
    model = build_model(info.spec, seed=0)
    load_weights(info, model)
    return TextModel(folder, model.to(opened.kind), tokenizer, get_eot_id(tokenizer, folder / "tokenizer.json"))
