"""Checkpoints are written atomically, restored exactly, and nothing in them is executed."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import UserError
from src.data.loader import TrainLoader
from src.runtime.atomic_files import file_sha256
from src.training.checkpoint import (
    FORMAT_VERSION,
    find_checkpoint,
    has_checkpoint,
    load_state,
    load_weights,
    meta_digest,
    read_checkpoint,
    save_checkpoint,
)
from src.training.progress import Progress
from src.training.train_step import TrainState
from tests.conftest import Bomb
from tests.contract.small import ARCHITECTURES, CPU, RECIPES, small_model
from tests.training.conftest import StateBuilder, step

PROGRESS = Progress("code", 7, 448, 1, 0, 1, 0.5, 9, 2.5, 2.0, 3.25, 1.5, 3.125)


def save(folder: Path, state: TrainState, progress: Progress = PROGRESS) -> None:
    save_checkpoint(folder, state.model, progress, tokenizer_sha256="abc", run="a-run", state=state.state_dict())


@pytest.fixture
def trained(build_state: StateBuilder, loader: TrainLoader) -> TrainState:
    state = build_state("mamba")
    step(state, CPU.tensor(loader.batch(0, 4)))
    return state


@pytest.fixture
def folder(tmp_path: Path, trained: TrainState) -> Path:
    save(tmp_path / "last", trained)
    return tmp_path / "last"


def update_checksums(folder: Path) -> None:
    """Update the checksums to the current files, as an attacker would."""
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"] = {name: file_sha256(folder / name) for name in meta["sha256"] if (folder / name).exists()}
    (folder / "meta.json").write_text(json.dumps({**meta, "meta_sha256": meta_digest(meta)}))


@contextmanager
def refused(*parts: object) -> Iterator[None]:
    """Expect a user error of one line that contains these parts."""
    with pytest.raises(UserError) as error:
        yield
    text = str(error.value)
    assert "\n" not in text and all(str(part) in text for part in parts), text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_are_restored_exactly(architecture: str, recipe: str, tmp_path: Path) -> None:
    model = small_model(architecture, recipe)
    save_checkpoint(tmp_path / "best", model, PROGRESS, tokenizer_sha256="abc", run="a-run")
    info = read_checkpoint(tmp_path / "best")
    assert (info.spec, info.progress, info.tokenizer_sha256, info.run) == (model.spec, PROGRESS, "abc", "a-run")
    other = small_model(architecture, recipe, seed=1)
    load_weights(info, other)
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    assert sorted(file.name for file in info.folder.iterdir()) == ["meta.json", "model.safetensors"]


def test_state_is_restored_exactly(folder: Path, trained: TrainState, build_state: StateBuilder) -> None:
    other = build_state("mamba", seed=1)
    other.restore(load_state(read_checkpoint(folder)))
    assert asdict(other.progress) == asdict(trained.progress)
    one, two = (each.optimizer.state_dict() for each in (trained, other))
    assert one["param_groups"] == two["param_groups"]
    assert all(
        torch.equal(one["state"][i][name], two["state"][i][name]) for i in one["state"] for name in one["state"][i]
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_non_finite_loss_can_be_saved(loss: float, tmp_path: Path, trained: TrainState) -> None:
    trained.progress.val_loss = loss
    save(tmp_path / "last", trained, trained.progress)
    info = read_checkpoint(tmp_path / "last")
    assert info.progress.val_loss is None
    assert load_state(info)["progress"]["val_loss"] == pytest.approx(loss, nan_ok=True)


class Crash(BaseException):
    """Simulates a power failure."""


@pytest.mark.parametrize("rename", [1, 2])
def test_crash_between_renames_loses_nothing(
    rename: int, folder: Path, trained: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old checkpoint is set aside, the new one is not in place, and no cleanup runs."""
    real, count = os.rename, iter(range(1, 10))

    def crash(source: Any, target: Any) -> None:
        if next(count) == rename:
            raise Crash
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            save(folder, trained, Progress("code", 8))
    assert folder.exists() == (rename == 1)
    assert has_checkpoint(folder)
    assert read_checkpoint(folder).progress == PROGRESS
    load_weights(read_checkpoint(folder), trained.model)
    save(folder, trained, Progress("code", 9))
    assert read_checkpoint(folder).progress.step == 9
    assert not folder.with_name("last.old").exists()


def test_crash_while_writing_keeps_the_old_checkpoint(
    folder: Path, trained: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise Crash

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(Crash):
        save(folder, trained, Progress("code", 8))
    assert read_checkpoint(folder).progress == PROGRESS
    assert [entry.name for entry in folder.parent.iterdir()] == ["last"], "no temporary files"


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 5000, -1])
def test_truncated_weights_are_rejected(kept: int, folder: Path, trained: TrainState) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    update_checksums(folder)
    with refused(file):
        load_weights(read_checkpoint(folder), trained.model)


def test_corrupt_weights_and_weights_of_another_model_are_rejected(folder: Path, trained: TrainState) -> None:
    with refused(folder / "model.safetensors"):
        load_weights(read_checkpoint(folder), small_model("dense"))
    (folder / "model.safetensors").write_bytes(b"\xff" * 500_000)
    update_checksums(folder)
    with refused(folder / "model.safetensors"):
        load_weights(read_checkpoint(folder), trained.model)
    (folder / "model.safetensors").unlink()
    with refused(folder / "model.safetensors"):
        load_weights(read_checkpoint(folder), trained.model)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99999])
def test_flipped_bit_is_detected(name: str, share: float, folder: Path, trained: TrainState) -> None:
    file = folder / name
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 4
    file.write_bytes(content)
    shutil.copytree(folder, folder.with_name("best"))
    info = read_checkpoint(folder)
    with refused(file, "damaged", f"init_from={folder.with_name('best')}"):
        load_weights(info, trained.model) if name == "model.safetensors" else load_state(info)


def test_flipped_bit_in_meta_is_detected(folder: Path) -> None:
    """For example in a digit of the spec: weights of the same shapes would give another model."""
    file = folder / "meta.json"
    content = file.read_bytes()
    for index in range(len(content)):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with refused(folder):
            read_checkpoint(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_state_is_rejected(share: float, folder: Path) -> None:
    file = folder / "state.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    update_checksums(folder)
    with refused(file):
        load_state(read_checkpoint(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"no checkpoint",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02}q\x00.",
        b"\x80\x02K\x01.",
        b"\xff" * 50,
        b"PK\x03\x04",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\n",
        b"\x00" * 600,
        None,
    ],
)
def test_invalid_state_is_rejected(content: bytes | None, folder: Path) -> None:
    file = folder / "state.pt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    update_checksums(folder)
    with refused(file):
        load_state(read_checkpoint(folder))


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_content_is_not_executed(legacy: bool, folder: Path, tmp_path: Path) -> None:
    mark, file = tmp_path / "executed", folder / "state.pt"
    if legacy:
        file.write_bytes(pickle.dumps({"progress": Bomb(mark)}, protocol=2))
    else:
        torch.save({"progress": Bomb(mark)}, file)
    update_checksums(folder)
    with refused(file):
        load_state(read_checkpoint(folder))
    assert not mark.exists()


def test_folder_without_meta_is_not_a_checkpoint(folder: Path) -> None:
    (folder / "meta.json").unlink()
    assert not has_checkpoint(folder)
    with refused(folder / "meta.json", "no such file"):
        read_checkpoint(folder)


CURRENT = f'"format_version": {FORMAT_VERSION}'


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", f"{{{CURRENT}}}", f'{{{CURRENT}, "spec": {{}}, "progress": 3, "meta_sha256": ""}}'],
)
def test_incomplete_meta_is_rejected(text: str, folder: Path) -> None:
    (folder / "meta.json").write_text(text)
    with refused(folder / "meta.json"):
        read_checkpoint(folder)


def test_other_format_is_rejected(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format_version": FORMAT_VERSION + 1}))
    with refused(folder, f"format {FORMAT_VERSION + 1}", f"reads {FORMAT_VERSION}"):
        read_checkpoint(folder)


def test_last_stage_of_a_run_is_found(tmp_path: Path, trained: TrainState) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("stage: {stages: {story: {}, code: {}, missing: {}}}", encoding="utf-8")
    for stage in ("code", "story"):  # neither in order of names nor of file times, which a copy does not keep
        save(run / "checkpoints" / stage / "last", trained, Progress(stage))
    assert find_checkpoint(run, "last").progress.stage == "code"
    assert find_checkpoint(run / "checkpoints" / "story" / "last", "best").progress.stage == "story"
    with pytest.raises(UserError, match="no checkpoint in it"):
        find_checkpoint(run, "best")
    with pytest.raises(UserError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere", "last")


def test_checkpoint_set_aside_by_a_crash_is_found(folder: Path) -> None:
    folder.rename(folder.with_name("last.old"))
    assert find_checkpoint(folder, "last").progress == PROGRESS


def test_reading_deletes_no_folder_of_the_user(tmp_path: Path, trained: TrainState) -> None:
    """A copy next to a run or a checkpoint belongs to the user."""
    run = tmp_path / "run"
    save(run / "checkpoints" / "code" / "last", trained)
    for kept in (tmp_path / "run.old", run / "checkpoints" / "code" / "last.old"):
        kept.mkdir()
        (kept / "precious").touch()
        find_checkpoint(run, "last")
        find_checkpoint(run / "checkpoints" / "code" / "last", "last")
        assert (kept / "precious").exists()
