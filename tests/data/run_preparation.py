"""Prepare data in a process that a test kills: `python -m tests.data.run_preparation ROOT BATCH_BYTES`."""

import sys
from pathlib import Path

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig
from src.data import parallel_map
from src.data.preparation import packing
from src.data.preparation.prepare import prepare_data


def prepare(root: Path, batch_bytes: int) -> None:
    """Prepare stories.txt and scripts.txt of a folder in small batches and in several processes."""
    packing.BATCH_BYTES, packing.BATCHES_PER_RECORD = batch_bytes, 3
    parallel_map.SERIAL_SECONDS = 0
    language, code = (CorpusConfig("local", [str(root / file)], [".txt"]) for file in ("stories.txt", "scripts.txt"))
    data = DataConfig(name="local", language=language, code=code)
    prepare_data(data, TokenizerConfig("bpe", 500), root / "outputs", log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), int(sys.argv[2]))
