"""Text that datatrove has tokenized becomes token files as if it were tokenized here."""

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from src.cli.data_validation import check_data
from src.config.schema import ROOT, CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.dataset import PreparedData
from src.data.loader import TrainLoader
from src.data.preparation.inspection import inspect_data
from src.data.preparation.prepare import prepare_data
from src.data.tokenizer.bpe import EOT, save_tokenizer, train_tokenizer

TEXTS = [f"Story {number}: a {'very ' * (number % 7)}long day of {number * 37 % 101} frogs." for number in range(300)]
N_IDS = 280
TEXTS += TEXTS[:20]  # datatrove has not removed these


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(iter(TEXTS), N_IDS, "own"), EOT, folder)
    return folder


def write_shard(path: Path, documents: Sequence[Sequence[int]], form: str = "H") -> None:
    """Write a shard in datatrove's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [token for document in documents for token in document]
    path.write_bytes(struct.pack(f"<{len(ids)}{form}", *ids))
    ends = np.cumsum([len(document) for document in documents]).tolist()
    path.with_name(f"{path.name}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))


def settings(shards: Path, tokenizer_folder: Path, **corpus: object) -> tuple[DataConfig, TokenizerConfig]:
    text = CorpusConfig(source="datatrove", paths=[str(shards)], **corpus)  # pyright: ignore[reportArgumentType]
    data = DataConfig(name="shards", language=text, val_fraction=0.1, test_fraction=0.1)
    return data, TokenizerConfig(name="external", vocab_size=N_IDS, path=str(tokenizer_folder))


def documents_of(data: PreparedData, split: str) -> list[tuple[int, ...]]:
    """Cut the stream of a split at its end-of-text tokens."""
    tokens, offsets = data.tokens("language", split).tolist(), data.offsets("language", split).tolist()
    assert tokens[0] == tokens[-1] == data.eot_id and [tokens[start] for start in offsets] == [data.eot_id] * len(
        offsets
    )
    ends = [*offsets[1:], len(tokens) - 1]
    return [tuple(tokens[start + 1 : end]) for start, end in zip(offsets, ends, strict=True)]


@pytest.fixture
def encoded(tokenizer_folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    return [encoding.ids for encoding in tokenizer.encode_batch(TEXTS, add_special_tokens=False)]


@pytest.mark.parametrize("form", ["H", "I"])
def test_every_document_is_in_one_split_without_special_tokens(
    form: str, tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.data.sources.token_shards.CHUNK", 500)  # some documents at a time
    eot = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json")).token_to_id(EOT)
    assert eot is not None
    write_shard(tmp_path / "shards" / "00000.ds", [[*ids, eot] for ids in encoded[:200]], form)
    write_shard(tmp_path / "shards" / "sub" / "00001.ds", [[eot, *ids] for ids in encoded[200:]] + [[eot]], form)
    data = prepare_data(*settings(tmp_path / "shards", tokenizer_folder), tmp_path, log=lambda line: None)
    found = {split: documents_of(data, split) for split in ("train", "val", "test")}
    assert sorted(chain(*found.values())) == sorted(map(tuple, encoded))
    distinct = [set(documents) for documents in found.values()]
    assert len(set.union(*distinct)) == sum(map(len, distinct)), "equal documents are in the same split"
    assert all(0.04 < len(found[split]) / len(TEXTS) < 0.2 for split in ("val", "test"))
    entries = data.manifest["corpora"]["language"]["splits"]
    assert sum(entry["bytes"] for entry in entries.values()) == sum(len(text.encode()) for text in TEXTS)
    counts = np.unique(data.tokens("language", "val"), return_counts=True)[1]
    share = counts / counts.sum()
    assert entries["val"]["unigram_loss"] == pytest.approx(-(share * np.log(share)).sum())
    inspect_data(data, 2, sys.stdout)


def test_the_split_depends_on_the_seed_and_not_on_the_shards(
    tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path
) -> None:
    write_shard(tmp_path / "a" / "0.ds", encoded)
    write_shard(tmp_path / "b" / "0.ds", encoded[150:])
    write_shard(tmp_path / "b" / "1.ds", encoded[:150])

    def val(folder: str, seed: int) -> set[tuple[int, ...]]:
        data, tokenizer = settings(tmp_path / folder, tokenizer_folder)
        data.seed = seed
        return set(documents_of(prepare_data(data, tokenizer, tmp_path, log=lambda line: None), "val"))

    assert val("a", 0) == val("b", 0) != val("a", 1)


def test_max_tokens_limits_training_text_alone(
    tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path
) -> None:
    write_shard(tmp_path / "0.ds", encoded)
    whole, part = (
        prepare_data(*settings(tmp_path / "0.ds", tokenizer_folder, max_tokens=n), tmp_path, log=lambda line: None)
        for n in (None, 1000)
    )
    assert documents_of(part, "val") == documents_of(whole, "val")
    kept = documents_of(part, "train")
    assert kept == documents_of(whole, "train")[: len(kept)] and 1000 <= len(part.tokens("language", "train")) < 1100
    left_out = part.manifest["corpora"]["language"]["dropped"]["beyond max_tokens"]
    assert len(kept) + left_out == len(documents_of(whole, "train"))


def test_a_shard_that_does_not_fit_is_named(tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path) -> None:
    shard, index = tmp_path / "0.ds", tmp_path / "0.ds.index"

    def error() -> str:
        with pytest.raises(UserError) as caught:
            prepare_data(*settings(tmp_path, tokenizer_folder), tmp_path / "outputs", log=lambda line: None)
        return str(caught.value)

    assert "no .ds file there" in error()
    write_shard(shard, [*encoded, [N_IDS]])
    assert f"{shard}: has token {N_IDS}, and tokenizer.path only {N_IDS} tokens" in error()
    write_shard(shard, encoded[:2])
    assert "too few documents for the split" in error()
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard}: has" in error() and "write it again" in error()
    index.write_bytes(struct.pack("<2Q", 9, 3))
    assert f"{index}: not the ends of documents" in error()
    index.unlink()
    assert f"{index}: No such file" in error()
    assert not list((tmp_path / "outputs" / "data").glob("[!.]*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.language.extensions", [".sh"]), ("data.language.max_bytes", 9), ("data.split", "position")],
)
def test_settings_that_need_the_text_are_refused(key: str, value: object, tokenizer_folder: Path) -> None:
    data, tokenizer = settings(Path("x"), tokenizer_folder)
    check_data(data, tokenizer)
    *outer, last = key.split(".")[1:]
    setattr(data.language if outer else data, last, value)
    with pytest.raises(UserError, match=rf"^{key}=.*leave it out"):
        check_data(data, tokenizer)


def test_datatrove_needs_its_tokenizer(tokenizer_folder: Path) -> None:
    data, _ = settings(Path("x"), tokenizer_folder)
    with pytest.raises(UserError, match=r"^tokenizer\.path: .*the tokenizer that datatrove used"):
        check_data(data, TokenizerConfig(name="bpe", vocab_size=N_IDS))


PEAK = """
import resource, sys
import numpy as np
from src.data.loader import TrainLoader, eval_windows

tokens = np.load(sys.argv[1], mmap_mode="r")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loader = TrainLoader(tokens, 1024, seed=0)
for step in (0, 1, 10**5):
    assert loader.batch(step, 16).shape == (16, 1025)
assert eval_windows(tokens, 1024, 64).shape == (64, 1025)
print(loader.n_windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_two_billion_tokens_are_opened_in_constant_memory(tmp_path: Path) -> None:
    """The file is sparse: it takes no room on the disk."""
    n, path = 2 * 10**9, tmp_path / "tokens.npy"
    with path.open("wb") as handle:
        header = {"descr": "<u2", "fortran_order": False, "shape": (n,)}
        np.lib.format.write_array_header_1_0(handle, header)
        handle.truncate(handle.tell() + 2 * n)
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, timeout=300
    )
    windows, kilobytes = map(int, result.stdout.split())
    assert windows == n // 1024 - 1
    assert kilobytes < 40 * windows / 1000 + 20_000, "the order of the windows, and pages of the text"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("datatrove") is None, reason="needs the extra clients")
def test_the_program_of_the_guide_writes_such_shards(
    tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "SCALING.md").read_text(), flags=re.DOTALL)
    (tmp_path / "text").mkdir()
    for number in range(2):
        lines = [json.dumps({"text": text}) for text in TEXTS[number::2]]
        (tmp_path / "text" / f"{number}.jsonl").write_text("\n".join(lines))
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path)
    (tmp_path / "program.py").write_text(program)  # a file, as its processes import it
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "tokens").glob("*.ds"))) == 2
    data = prepare_data(*settings(tmp_path / "tokens", tokenizer_folder), tmp_path, log=lambda line: None)
    found = [document for split in ("train", "val", "test") for document in documents_of(data, split)]
    assert sorted(found) == sorted(map(tuple, encoded))


def test_the_loader_reads_what_was_copied(tokenizer_folder: Path, encoded: list[list[int]], tmp_path: Path) -> None:
    write_shard(tmp_path / "0.ds", encoded)
    data = prepare_data(*settings(tmp_path / "0.ds", tokenizer_folder), tmp_path, log=lambda line: None)
    tokens = data.tokens("language", "train")
    batch = TrainLoader(tokens, 32, seed=0).batch(0, 4)
    assert batch.shape == (4, 33) and set(batch.ravel().tolist()) <= set(tokens.tolist())
