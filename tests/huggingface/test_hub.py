"""Uploads to a stand-in hub on loopback: what is sent, and that each refusal is one line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from src.training.checkpoint import save_checkpoint
from src.training.progress import Progress
from tests.huggingface.cases import model_of, spec_of, tokenizer_of
from tests.huggingface.upload_hub import REPO, UploadHub, upload_hub
from tests.test_export import run, run_failing_export

# huggingface_hub 2.4 passes a file to httpx by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with upload_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # otherwise large files go to another service
        monkeypatch.setenv("HF_TOKEN", "a_token")
        yield hub


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, spec = tmp_path_factory.mktemp("trained") / "run", spec_of("dense")
    best = place / "checkpoints" / "language" / "best"
    save_checkpoint(best, model_of(spec), Progress("language", step=7), tokenizer_sha256="0" * 64, run="a run")
    (place / "tokenizer.json").write_text(tokenizer_of(spec.vocab_size).to_str(), encoding="utf-8")
    return place


def test_push_uploads_the_whole_folder_in_one_commit(
    hub: UploadHub, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["format=huggingface", f"run={trained}", f"out={out}", f"push={REPO}", "dtype=bf16"]
    assert run(*command) == 0
    assert capsys.readouterr().out.splitlines() == [f"Export: {out}", f"Pushed: {hub.endpoint}/{REPO}/commit/1"]
    (created,) = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("somebody", "my-model", "private")
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert hub.commits == [files] and len(files) == 7
    assert hub.tokens == {"Bearer a_token"}
    assert run(*command) == 0, "the folder is accepted as done, and pushed again"
    assert len(hub.commits) == 2


def test_without_being_asked_nothing_is_sent(hub: UploadHub, trained: Path, tmp_path: Path) -> None:
    assert run("format=huggingface", f"run={trained}", f"out={tmp_path / 'out'}") == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("push", "expected"),
    [
        ("my-model", "push=my-model: has no owner; write OWNER/NAME"),
        ("a/b/c", "push=a/b/c: not the name of a repository (Repo id must be in the form"),
        ("a/b c", "push=a/b c: not the name of a repository ("),
        ("a/b--c", "push=a/b--c: not the name of a repository ("),
        ("", "push=: not the name of a repository"),
        ("a/\x1b[31m", "push=a/"),
    ],
)
def test_a_malformed_name_is_refused_before_anything_is_written(
    push: str, expected: str, hub: UploadHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = run_failing_export(
        capsys, "format=huggingface", "run=/no/such", f"out={tmp_path / 'new' / 'out'}", f"push={push}"
    )
    assert line.startswith(expected) and "\x1b" not in line
    assert hub.requests == []


def test_a_missing_token_and_offline_mode_are_one_line(
    hub: UploadHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["format=huggingface", "run=/no/such", f"out={tmp_path / 'out'}", f"push={REPO}"]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert run_failing_export(capsys, *command) == (
        f"push={REPO}: there is no token; set HF_TOKEN to one that may write, or hf auth login"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run_failing_export(capsys, *command) == f"push={REPO}: HF_HUB_OFFLINE is set; unset it"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("route", "status", "expected"),
    [
        ("/create", 401, "give another token in HF_TOKEN"),
        ("/create", 403, "give a token that may write there, or another OWNER"),
        ("/create", 400, "answers with status 400 (not taken"),
        ("/validate-yaml", 500, "answers with status 500"),
        ("/commit/main", 403, "give a token that may write there"),
        (None, 0, "cannot be reached ("),
    ],
)
def test_a_refusal_is_one_line_and_the_folder_stays(
    route: str | None, status: int, expected: str, hub: UploadHub, trained: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if route is None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.refusals[route] = (status, "not taken")
    out = tmp_path / "out"
    assert run("format=huggingface", f"run={trained}", f"out={out}", f"push={REPO}") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: push={REPO}: ") and expected in shown.err
    assert shown.err.count("\n") == 1 and shown.err.endswith(f"{out} is complete\n")
    assert hub.commits == [] and (out / "README.md").exists()
