"""Kill preparations before a file operation, repeat them, and compare: `... kill_before_operations ROOT EVERY FIRST`.

Each preparation is a fork of this process, which has loaded all modules and has not started threads, so that it takes a
fraction of a second.
"""

import signal
import sys
from pathlib import Path

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig
from src.data.dataset import VERIFIED
from src.data.filters import near_duplicates
from src.data.preparation import packing
from src.data.preparation.prepare import SPEED, prepare_data
from tests.data.conftest import VOCAB_SIZE, write_corpus
from tests.torture import operations
from tests.torture.fork import start_fork, wait_for_fork


def prepare(root: Path, outputs: str, kill_at: int | None = None, rerun: bool = False) -> int:
    """Prepare in a fork that is killed before operation number `kill_at`; return its exit status."""

    def action() -> None:
        language = CorpusConfig("local", [str(root / "text" / "stories.txt")], [".txt"])
        code = CorpusConfig("local", [str(root / "text" / "scripts.jsonl")], [".sh"])
        data = DataConfig(name="local", language=language, code=code)
        done = operations.kill_before(kill_at)
        prepare_data(data, TokenizerConfig("bpe", VOCAB_SIZE), root / outputs, rerun, log=lambda _: None)
        counted = done[0]
        (root / "operations").write_text(str(counted))

    return wait_for_fork(start_fork(action))


def contents(root: Path, outputs: str) -> dict[str, bytes | None]:
    """Read all files below a folder of outputs but the measured speed; None for folders."""
    files = sorted(path for path in (root / outputs).rglob("*") if path.name != SPEED)
    return {
        str(path.relative_to(root / outputs)): path.read_bytes() if path.is_file() and path.name != VERIFIED else None
        for path in files
    }


def main(root: Path, every: int, first: int) -> None:
    """Kill before each `every`-th operation, from `first` on."""
    write_corpus(root)
    packing.BATCH_BYTES, packing.BATCHES_PER_RECORD = 5_000, 2
    assert near_duplicates.SEED == 1, "loaded before the forks"
    assert prepare(root, "whole") == 0
    whole, n_operations = contents(root, "whole"), int((root / "operations").read_text())
    for rerun in (False, True):
        for number in range(first, n_operations, every * (3 if rerun else 1)):
            outputs = f"killed-{rerun}-{number}"
            if rerun:
                assert prepare(root, outputs) == 0
            status = prepare(root, outputs, number, rerun)
            assert status == -signal.SIGKILL, (number, n_operations, status)
            assert prepare(root, outputs) == 0, (number, rerun)
            found = contents(root, outputs)
            differing = [name for name in {**found, **whole} if found.get(name, 0) != whole.get(name, 0)]
            assert not differing, (number, rerun, differing)
    print(f"{n_operations} operations")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
