"""Measure the speed and memory of data preparation: `python -m tests.data.speed FOLDER [MEGABYTES [UNIQUE]]`.

Generated text is written to FOLDER once, half stories and half scripts. The grammar generates about 1 MB per second, so
only UNIQUE (250) of MEGABYTES (1000) are generated, and the rest are copies with letters exchanged, which give other
words and tokens. Packing alternates with the library's `encode_batch` on the same pieces of text, so that other load
affects both, and the medians are compared. Then the command prepares the whole text.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from multiprocessing import Process
from pathlib import Path

import numpy as np

from src.config.schema import ROOT, CorpusConfig
from src.data.document import Document
from src.data.filters.text_cleaning import clean_documents
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.packing import pack
from src.data.preparation.splits import TRAIN
from src.data.sources import generated
from src.data.sources.registry import read_documents
from src.data.tokenizer.bpe import train_tokenizer

GENERATORS = {"stories": generated.generate_stories, "scripts": generated.generate_scripts}
EXCHANGES = ("kj", "bp", "mn", "dt", "vf", "gc", "lr")
PIECE_BYTES = 10_000_000
ROUNDS = 7
VOCAB_SIZE = 2000


def write_text(path: Path, kind: str, n_bytes: int, unique_bytes: int) -> None:
    """Write generated text, followed by copies with letters exchanged, up to `n_bytes`."""
    texts = [document.text.strip("\n") for document in GENERATORS[kind](12345, unique_bytes)]
    size, round_number = 0, 0
    with path.with_suffix(".part").open("w", encoding="utf-8") as handle:
        while size < n_bytes:
            pairs = [pair for bit, pair in enumerate(EXCHANGES) if round_number >> bit & 1]
            table = str.maketrans("".join(pairs), "".join(pair[::-1] for pair in pairs))
            for text in texts:
                size += handle.write(text.translate(table) + "\n<|endoftext|>\n")
                if size >= n_bytes:
                    break
            round_number += 1
    os.replace(path.with_suffix(".part"), path)


def write_texts(folder: Path, megabytes: int, unique: int) -> None:
    """Write the missing texts, both kinds in parallel."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [kind for kind in GENERATORS if not (folder / f"{kind}.txt").exists()]
    writers = [
        Process(target=write_text, args=(folder / f"{kind}.txt", kind, megabytes * 500_000, unique * 500_000))
        for kind in missing
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


def read_pieces(path: Path, folder: Path) -> list[list[Document]]:
    """Read `ROUNDS` pieces of a text."""
    corpus = CorpusConfig(source="local", paths=[str(path)])
    documents = iter(clean_documents(read_documents(corpus, "language", 0, Counter(), folder), Counter()))
    found: list[list[Document]] = []
    for _ in range(ROUNDS):
        piece: list[Document] = []
        size = 0
        for document in documents:
            piece.append(document)
            size += len(document.text)
            if size >= PIECE_BYTES:
                break
        found.append(piece)
    return found


def measure_time(work: Callable[[], object]) -> tuple[float, float]:
    """Return (elapsed seconds, CPU seconds)."""
    started, started_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - started_cpu


def compare_with_library(path: Path, folder: Path) -> None:
    """Compare the speed of packing with that of the library."""
    found = read_pieces(path, folder)
    tokenizer = train_tokenizer((document.text for document in islice(found[0], 5000)), VOCAB_SIZE)
    ratios = []
    for number, piece in enumerate(found):
        stem = folder / f"{path.stem}-{number}"
        store = DocumentStore(stem)
        store.write(piece, 0)
        texts = [document.text for document in piece]
        split_assignment = np.full(len(store), TRAIN, dtype=np.int8)
        works = {
            "alone": partial(tokenizer.encode_batch, texts),
            "packing": partial(
                pack, store, split_assignment, tokenizer, (0, VOCAB_SIZE), stem, stem.with_suffix(".json"), None
            ),
        }
        times = {name: measure_time(works[name]) for name in (works if number % 2 else reversed(works))}
        ratios.append([alone / packing for alone, packing in zip(*(times[name] for name in works), strict=True)])
        rate = store.n_bytes / 1e6 / times["packing"][0]
        print(f"{stem.name}: packed {rate:.2f} MB/s, {ratios[-1][0]:.0%} of encode_batch alone", flush=True)
    wall, processor = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"{path.stem}: packing is as fast as {wall:.0%} of encode_batch alone, {processor:.0%} by processor time")


def resident_kib(group: int) -> int:
    """Return the resident memory of a process group in KiB; shared pages count for each process."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=True).stdout
    return sum(int(rss) for pgid, rss in map(str.split, listed.splitlines()) if int(pgid) == group)


def prepare(texts: Path, folder: Path) -> None:
    """Prepare the whole text by the command."""
    paths = [f"data.{name}.paths=[{texts / kind}.txt]" for name, kind in (("language", "stories"), ("code", "scripts"))]
    started, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "src.prepare", "data=local", *paths, f"output_root={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, resident_kib(process.pid))
        time.sleep(0.2)
    assert process.returncode == 0
    seconds = time.perf_counter() - started
    n_bytes = sum((texts / f"{kind}.txt").stat().st_size for kind in GENERATORS)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"prepare: {n_bytes / 1e6:,.0f} MB in {seconds:,.0f} s and {used.ru_utime + used.ru_stime:,.0f} s of processor "
        f"time; resident at most {peak / 1024:,.0f} MiB, all processes together"
    )


def main(folder: Path, megabytes: int = 1000, unique: int = 250) -> None:
    write_texts(folder, megabytes, unique)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for kind in GENERATORS:
            compare_with_library(folder / f"{kind}.txt", Path(place))
        prepare(folder, Path(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
