"""Files of a run are data: no content of them is executed, and an invalid file is a one-line error."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src import generate, report
from src.cli.command import run_cli
from tests.integration import tiny
from tests.training.test_checkpoint import Bomb, update_checksums


def pickled(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb(mark)))


def saved_by_torch(file: Path, mark: Path) -> None:
    torch.save({"progress": Bomb(mark)}, file)


def tagged_yaml(file: Path, mark: Path) -> None:
    file.write_text(f"!!python/object/apply:os.mkdir ['{mark}']\n", encoding="utf-8")


def truncated(file: Path, mark: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


FILES = [
    "config.yaml",
    "summary.json",
    "metrics.jsonl",
    "tokenizer.json",
    "samples/language.json",
    "train.log",
    "checkpoints/language/best/meta.json",
    "checkpoints/language/best/model.safetensors",
    "checkpoints/language/last/meta.json",
    "checkpoints/language/last/model.safetensors",
    "checkpoints/language/last/state.pt",
]


QUICK = [
    ("config.yaml", tagged_yaml),
    ("summary.json", pickled),
    ("checkpoints/language/last/model.safetensors", pickled),
    ("checkpoints/language/last/state.pt", saved_by_torch),
]
CASES = [
    *((name, pickled) for name in FILES),
    *((name, truncated) for name in FILES),
    *((name, saved_by_torch) for name in FILES if name.endswith((".pt", ".safetensors"))),
    ("config.yaml", tagged_yaml),
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root with a run that the same command would resume: its summary says that it is not done."""
    root = tmp_path_factory.mktemp("stopped")
    assert tiny.run(tiny.data_dir(tmp_path_factory), root) == 0
    tiny.change_summary(tiny.only_run(root), status="interrupted")
    return root


@pytest.mark.parametrize(
    ("name", "harm"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_no_file_of_a_run_is_ever_executed(
    name: str,
    harm: Callable[[Path, Path], None],
    stopped: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run every command that reads a run, with one malicious or damaged file in it."""
    mark, data = tmp_path / "executed", tiny.data_dir(tmp_path_factory)

    def resume(root: Path, run: Path) -> int:
        return tiny.run(data, root)

    def start_from(root: Path, run: Path) -> int:
        return tiny.run(data, root, f"init_from={run}", "training.max_steps=1")

    def continue_prompt(root: Path, run: Path) -> int:
        return run_cli(lambda: generate.main([f"run={run}", "prompt=Once", "max_new_tokens=1", "threads=1"]))

    def make_report(root: Path, run: Path) -> int:
        return run_cli(lambda: report.main([f"dir={root}"]))

    for number, command in enumerate((resume, start_from, continue_prompt, make_report)):
        root = tmp_path / str(number)
        shutil.copytree(stopped, root)
        run = tiny.only_run(root)
        harm(run / name, mark)
        if name.startswith("checkpoints/") and not name.endswith("meta.json"):
            update_checksums((run / name).parent)  # so that the checksum does not reject the file
        capsys.readouterr()
        status = command(root, run)
        said = capsys.readouterr().err
        assert not mark.exists(), f"{command.__name__} executed {name}"
        assert status in (0, 2), said
        if status == 2:
            assert said.startswith("error: ") and said.count("\n") == 1
            assert name.rpartition("/")[2] in said or run.name in said, said
