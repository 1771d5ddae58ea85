"""Damaged files are repaired or give one error line; manifests are checked; names in a manifest cannot be paths."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import DataConfig, TokenizerConfig, UserError
from src.data.dataset import MANIFEST, VERIFIED
from src.data.preparation import packing, pipeline
from src.data.preparation.prepare import SPEED, find_prepared, load_prepared, prepare_data
from src.runtime.records import DIGEST
from tests.data.preparation.test_prepare import Killed, contents, interrupt


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x40
    path.write_bytes(data)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def replace_by_link(path: Path) -> None:
    moved = path.with_name(path.name + ".moved")
    path.rename(moved)
    path.symlink_to(moved)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": flip_bit,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "{}": lambda path: path.write_text("{}"),
    "[]": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "digits": lambda path: path.write_text('{"next": ' + "9" * 5000 + "}"),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "folder": replace_by_folder,
    "link": replace_by_link,
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def prepare(local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path) -> Callable[[str], Path]:
    lines: list[str] = []

    def run(root: str) -> Path:
        return prepare_data(local_data, small_vocabulary, tmp_path / root, log=lines.append).folder

    return run


@pytest.fixture
def unfinished_work(prepare: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work that was interrupted shortly before its end."""
    monkeypatch.setattr(packing, "BATCH_BYTES", 2000)
    monkeypatch.setattr(packing, "BATCHES_PER_RECORD", 2)
    with monkeypatch.context() as patch:
        interrupt(patch, pipeline, "describe_corpus", 1)
        with pytest.raises(Killed):
            prepare("killed")
    return next((tmp_path / "killed" / "data").glob(".*.work"))


def check_damaged_work_is_redone(
    unfinished_work: Path, file: str, damage: str, prepare: Callable[[str], Path], whole: dict[str, bytes]
) -> None:
    root = unfinished_work.parents[1].with_name("damaged")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(unfinished_work.parents[1], root)
    DAMAGES[damage](root / "data" / unfinished_work.name / file)
    folder = prepare("damaged")
    assert contents(folder) == whole, (file, damage)
    left = {path.name for path in folder.parent.iterdir()}
    assert left - {SPEED} == {folder.name, f".lock-{folder.name}"}, (file, damage)


def test_damaged_unfinished_work_is_redone(unfinished_work: Path, prepare: Callable[[str], Path]) -> None:
    whole = contents(prepare("whole"))
    files = sorted(str(path.relative_to(unfinished_work)) for path in unfinished_work.rglob("*") if path.is_file())
    assert {"settings.json", "read.code.json", "code.packed.json", "language.index", "out/code_train.npy"} <= set(files)
    for number, file in enumerate(files[::6]):
        check_damaged_work_is_redone(unfinished_work, file, list(DAMAGES)[number % len(DAMAGES)], prepare, whole)


@pytest.mark.slow
def test_any_damage_to_unfinished_work_is_redone(unfinished_work: Path, prepare: Callable[[str], Path]) -> None:
    whole = contents(prepare("whole"))
    for file in sorted(str(path.relative_to(unfinished_work)) for path in unfinished_work.rglob("*") if path.is_file()):
        for damage in DAMAGES:
            check_damaged_work_is_redone(unfinished_work, file, damage, prepare, whole)


def test_a_damaged_prepared_folder_is_one_error_line(prepare: Callable[[str], Path]) -> None:
    folder = prepare("outputs")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = (MANIFEST, "tokenizer.json", "tokenizer_config.json", "code_val.npy", "code_test.offsets.npy")
    for damage, do in DAMAGES.items():
        for file in files:
            if damage == "link" and file != MANIFEST:
                continue  # the link has the same content
            do(folder / file)
            with pytest.raises(UserError, match=file) as error:
                load_prepared(folder)
            assert "\n" not in str(error.value) and "prepare" in str(error.value), error.value
            shutil.rmtree(folder)
            folder.mkdir()
            for name, content in whole.items():
                (folder / name).write_bytes(content)
        if damage not in ("link", "folder"):
            do(folder / VERIFIED)
            assert load_prepared(folder).fingerprint
    flip_bit(folder / MANIFEST)
    replace_by_folder(folder / "code_val.npy")
    again = prepare("outputs")
    assert contents(again) == {name: content for name, content in whole.items() if name != VERIFIED}
    assert {path.name for path in folder.iterdir()} == set(whole)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("tokenizer.eot_id=1", lambda manifest: manifest["tokenizer"].update(eot_id=1)),
    ("tokenizer.vocab_size=301", lambda manifest: manifest["tokenizer"].update(vocab_size=301)),
    ("tokenizer.sha256=ff", lambda manifest: manifest["tokenizer"].update(sha256="ff")),
    ("Expected `int`, got `str`", lambda manifest: manifest["tokenizer"].update(eot_id="0")),
    ("splits.val.tokens=7", lambda manifest: manifest["corpora"]["code"]["splits"]["val"].update(tokens=7)),
    ("splits.val.documents=7", lambda manifest: manifest["corpora"]["code"]["splits"]["val"].update(documents=7)),
    ("no split val", lambda manifest: manifest["corpora"]["code"]["splits"].pop("val")),
    ("no corpus code", lambda manifest: manifest["corpora"].pop("code")),
    ("missing required field `files`", lambda manifest: manifest.pop("files")),
    ("lists no code_val.npy", lambda manifest: manifest["files"].pop("code_val.npy")),
    ("fingerprint", lambda manifest: manifest.update(fingerprint="0" * 64)),
]


def test_a_changed_manifest_is_detected(prepare: Callable[[str], Path]) -> None:
    path = prepare("outputs") / MANIFEST
    whole = path.read_text()
    for reason, change in CHANGES:
        manifest = json.loads(whole)
        change(manifest)
        path.write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="damaged: its content differs from its checksum; prepare it again"):
            load_prepared(path.parent)
        del manifest[DIGEST]  # earlier versions wrote none
        path.write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=reason) as error:
            load_prepared(path.parent)
        assert str(error.value).startswith(f"{path}: ") and "prepare it again" in str(error.value)


def test_a_manifest_of_an_earlier_version_opens(
    prepare: Callable[[str], Path], local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path
) -> None:
    folder = prepare("outputs")
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    for key in (DIGEST, *(key for key in manifest if key == "left_out")):
        manifest.pop(key, None)
    assert not {"separator", "text_field"} & set(manifest["settings"]["data"]["code"]), (
        "unset settings do not change the folder's name"
    )
    path.write_text(json.dumps(manifest))
    assert load_prepared(folder).eot_id == 0
    found = find_prepared(local_data, small_vocabulary, tmp_path / "outputs")
    assert found is not None and found.folder == folder


def test_manifest_names_cannot_be_paths(prepare: Callable[[str], Path], tmp_path: Path) -> None:
    folder = prepare("outputs")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[DIGEST]
    for name in ("../x.origins.jsonl", "/etc/passwd.origins.jsonl", "a/b.origins.jsonl"):
        changed = {**manifest, "files": {**manifest["files"], name: {"bytes": 1, "sha256": "0"}}}
        (folder / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(UserError, match="is not a plain name"):
            load_prepared(folder)


def test_damage_in_another_folder_is_ignored(
    prepare: Callable[[str], Path], local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path
) -> None:
    """Local data without paths means the newest folder; another damaged folder is ignored."""
    folder = prepare("outputs")
    for number, content in enumerate(("{", "[]", '{"settings": []}', '{"settings": {"data": 3}}', "[" * 100_000)):
        other = folder.with_name(f"local-{number}")
        other.mkdir()
        (other / MANIFEST).write_text(content)
    for corpus in (local_data.language, local_data.code):
        corpus.paths = []
    found = find_prepared(local_data, small_vocabulary, tmp_path / "outputs")
    assert found is not None and found.folder == folder


def test_a_folder_at_the_lock_path_is_one_error_line(prepare: Callable[[str], Path]) -> None:
    folder = prepare("outputs")
    lock = folder.with_name(f".lock-{folder.name}")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(UserError, match="must be a lock file but is not a regular file; move it away"):
        prepare("outputs")
