"""Downloads from a hub on loopback are verified, resume after any interruption, or give one error line."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from src import prepare
from src.cli.command import run_cli
from src.config.schema import ROOT, CorpusConfig, UserError
from src.data.sources.huggingface import fetch_files
from tests.data.conftest import make_texts
from tests.data.fake_hub import REPO, REVISION, FakeHub, fake_hub

STORIES = "\n<|endoftext|>\n".join(f"\n\n{text}." for text in make_texts(1, 300)).encode()
CHUNK = 4096


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Set the endpoint, which the library reads from HF_ENDPOINT at import; small chunks, no pause before retries."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with fake_hub() as served:
        point_to(served.endpoint, monkeypatch)
        yield served
        close_session()


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def fetch(cache: Path, **files: str) -> list[bytes]:
    corpus = CorpusConfig(source="hub", repo=REPO, revision=REVISION, files={f"{k}.txt": v for k, v in files.items()})
    return [path.read_bytes() for path in fetch_files(corpus, "language", cache).values()]


def command(folder: Path, sha256: str, *more: str) -> list[str]:
    """Return a command that prepares stories of the hub and local scripts."""
    scripts = folder / "scripts.jsonl"
    scripts.write_text("".join(f'{{"text": "echo {text}"}}\n' for text in make_texts(2, 100)))
    settings = {
        "data.language.source": "hub",
        "data.language.repo": REPO,
        "data.language.revision": REVISION,
        "+data.language.files": f"{{stories.txt:{sha256}}}",
        "data.language.licence": "CDLA-Sharing-1.0",
        "data.code.paths": f"[{scripts}]",
        "tokenizer.vocab_size": "300",
        "output_root": str(folder / "outputs"),
    }
    return ["data=local", *(f"{key}={value}" for key, value in settings.items()), *more]


def error_line(folder: Path, sha256: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run the command, which has to fail with one line and write no data; return the line."""
    assert run_cli(lambda: prepare.main([*command(folder, sha256), *more])) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: data.language.") and output.err.count("\n") == 1
    assert [path for path in (folder / "outputs" / "data").glob("*") if not path.name.startswith(".lock")] == []
    assert list((folder / "outputs" / "sources").rglob("stories.txt")) == [], "the file does not exist"
    return output.err


def test_files_are_fetched_once_and_the_token_is_sent_only_to_the_hub(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pins = {"b": hub.add("b.txt", STORIES), "a": hub.add("a.txt", b"short")}
    assert fetch(tmp_path, **pins) == [b"short", STORIES]
    pages = [request for request in hub.requests if "/resolve/" in request.path]
    assert {request.authorization for request in pages} == {"Bearer hf_secret"}
    assert {request.authorization for request in hub.requests if request not in pages} == {None}
    assert hub.ranges() == [None, None]
    hub.requests.clear()
    assert fetch(tmp_path, **pins) == [b"short", STORIES]
    next(tmp_path.rglob("a.txt")).touch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(tmp_path, **pins) == [b"short", STORIES]
    assert hub.requests == []


def test_a_manually_placed_file_is_verified(hub: FakeHub, tmp_path: Path) -> None:
    pin = hub.add("a.txt", b"right")
    path = tmp_path / "hub" / REPO / REVISION / "a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"wrong")
    with pytest.raises(UserError, match=rf"data\.language\.files\.a\.txt={pin}: .* was removed"):
        fetch(tmp_path, a=pin)
    assert not path.exists()
    path.write_bytes(b"right")
    assert fetch(tmp_path, a=pin) == [b"right"]
    assert hub.requests == []


def test_a_cut_connection_resumes_immediately(hub: FakeHub, tmp_path: Path) -> None:
    pin = hub.add("a.txt", STORIES)
    hub.cuts = [2 * CHUNK + 100, CHUNK]
    assert fetch(tmp_path, a=pin) == [STORIES]
    assert hub.ranges() == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"], "whole chunks are kept"


def test_a_failed_download_resumes_with_the_same_command(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = hub.add("stories.txt", STORIES)
    hub.cuts = [3 * CHUNK, *[0] * 20]
    line = error_line(tmp_path, pin, capsys)
    assert "closed connection" in line and "repeat the command to resume the download" in line
    hub.cuts.clear()
    hub.requests.clear()
    assert run_cli(lambda: prepare.main(command(tmp_path, pin))) == 0
    assert hub.ranges() == [f"bytes={3 * CHUNK}-"]
    assert "300 documents" in capsys.readouterr().out
    assert next(tmp_path.rglob("stories.txt")).read_bytes() == STORIES


@pytest.mark.slow
def test_a_killed_download_resumes_with_the_same_command(tmp_path: Path) -> None:
    """In subprocesses, which find the hub by HF_ENDPOINT; the library writes 10 MiB at a time."""
    content = STORIES * (24 * 2**20 // len(STORIES))
    with fake_hub() as hub:
        hub.stall_after = 13 * 2**20
        line = command(tmp_path, hub.add("stories.txt", content), "data.language.max_bytes=50_000")
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        arguments = [sys.executable, "-m", "src.prepare", *line]
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.rglob(".stories.txt.incomplete")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = next(tmp_path.rglob(".stories.txt.incomplete")).stat().st_size
        hub.stall_after = None
        hub.requests.clear()
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("Next: python -m src.train")
        assert hub.ranges() == [f"bytes={kept}-"]
        assert [request.method for request in hub.requests] == ["HEAD", "GET", "GET"]
    assert next(tmp_path.rglob("stories.txt")).read_bytes() == content
    assert not (tmp_path / "home").exists(), "no other files are written"


@pytest.mark.parametrize("size", [5, CHUNK, len(STORIES), len(STORIES) + 5])
def test_a_wrong_partial_file_is_detected_and_removed(hub: FakeHub, tmp_path: Path, size: int) -> None:
    """A partial file that is too long is overwritten; a wrong one is detected by its sha256."""
    pin = hub.add("a.txt", STORIES)
    incomplete = tmp_path / "hub" / REPO / REVISION / ".a.txt.incomplete"
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(b"x" * size)
    if size <= len(STORIES):
        with pytest.raises(UserError, match="was removed; repeat the command"):
            fetch(tmp_path, a=pin)
        assert not incomplete.exists()
    assert fetch(tmp_path, a=pin) == [STORIES]


def test_a_file_with_another_hash_is_an_error(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("stories.txt", STORIES)
    line = error_line(tmp_path, "f" * 64, capsys)
    assert f"data.language.files.stories.txt={'f' * 64}: the hub has sha256 " in line
    assert hub.ranges() == [], "the hub announces the hash before the download"
    hub.lfs = False
    assert "was removed; repeat the command" in error_line(tmp_path, "f" * 64, capsys)
    assert list(tmp_path.rglob("*.incomplete")) == []


def test_an_endless_response_stops_at_the_announced_size(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = hub.add("stories.txt", STORIES)
    hub.endless = True
    assert "does not answer like a hub" in error_line(tmp_path, pin, capsys)
    assert hub.sent < 50_000_000, "only the buffers are filled"
    assert list(tmp_path.rglob("*.incomplete")) == []


def test_a_file_with_another_size_is_not_downloaded(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = hub.add("stories.txt", STORIES)
    line = error_line(tmp_path, pin, capsys, "+data.language.file_bytes={stories.txt: 5}")
    assert f"data.language.file_bytes.stories.txt=5: the hub has {len(STORIES)} bytes" in line
    assert hub.ranges() == []
    line = error_line(tmp_path, pin, capsys, "+data.language.file_bytes={other.txt: 5}")
    assert "data.language.file_bytes.other.txt: no such file in data.language.files" in line


def test_a_file_larger_than_the_free_space_is_not_downloaded(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = hub.add("stories.txt", STORIES)
    hub.announced = 10**18
    assert "has 1,000,000,000,000,000,000 bytes, but only" in error_line(tmp_path, pin, capsys)
    assert hub.ranges() == []


@pytest.mark.parametrize("stamp", [b"{", b"[" * 100_000, b"{}", b"null", b"\xff", b'{"size": ' + b"9" * 5000 + b"}"])
def test_a_damaged_verification_record_is_ignored(hub: FakeHub, tmp_path: Path, stamp: bytes) -> None:
    pin = hub.add("a.txt", b"right")
    assert fetch(tmp_path, a=pin) == [b"right"]
    path = tmp_path / "hub" / REPO / REVISION / ".a.txt.verified.json"
    path.write_bytes(stamp)
    hub.requests.clear()
    assert fetch(tmp_path, a=pin) == [b"right"]
    assert hub.requests == [] and path.read_bytes() != stamp, "verified by its content and recorded again"


def test_links_and_folders_at_the_partial_path_are_handled(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pin = hub.add("stories.txt", STORIES)
    cache = tmp_path / "outputs" / "sources" / "hub" / REPO / REVISION
    incomplete, outside = cache / ".stories.txt.incomplete", tmp_path / "outside"
    incomplete.mkdir(parents=True)
    assert run_cli(lambda: prepare.main(command(tmp_path, pin))) == 2
    output = capsys.readouterr().err
    assert str(incomplete) in output and output.count("\n") == 1, output
    incomplete.rmdir()
    outside.write_bytes(b"mine")
    incomplete.symlink_to(outside)
    assert fetch(tmp_path / "outputs" / "sources", stories=pin) == [STORIES]
    assert outside.read_bytes() == b"mine" and not (cache / "stories.txt").is_symlink()
    (cache / "stories.txt").unlink()
    (cache / "stories.txt").mkdir()
    assert run_cli(lambda: prepare.main(command(tmp_path, pin))) == 2
    output = capsys.readouterr().err
    assert "is not a file; move it away" in output and output.count("\n") == 1


FAILURES = [
    ({"error": (401, "RepoNotFound")}, f"repo={REPO}: no such data set on {{hub}}"),
    ({"error": (404, "RevisionNotFound")}, f"revision={REVISION}: {REPO} has no such commit; correct it"),
    ({"error": (404, "EntryNotFound")}, f"files.stories.txt: {REPO} has no such file at revision {REVISION}"),
    (
        {"error": (403, "GatedRepo")},
        f"repo={REPO}: its terms are not accepted yet; accept them on {{hub}} and set HF_TOKEN",
    ),
    ({"error": (403, None)}, "answers with status 403; set HF_TOKEN, or fetch"),
    ({"error": (404, None)}, "answers with status 404; check HF_ENDPOINT, or fetch"),
    ({"error": (503, None)}, "answers with status 503; try again later, or fetch"),
    ({"hub_page": b"<html>log in</html>"}, "does not answer like a hub; check HF_ENDPOINT and your proxy"),
    ({"store_page": b"<html>log in</html>"}, "does not answer like a hub; check HF_ENDPOINT and your proxy"),
    ({"store_page": b"x" * len(STORIES)}, "was removed; repeat the command"),
    ({"stall_after": 100}, "timed out; repeat the command to resume the download, or fetch"),
]


@pytest.mark.parametrize(("failure", "expected"), FAILURES, ids=[str(failure)[:40] for failure, _ in FAILURES])
def test_failures_are_one_error_line(
    failure: dict[str, object],
    expected: str,
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    pin = hub.add("stories.txt", STORIES)
    healthy = {key: getattr(hub, key) for key in failure}
    vars(hub).update(failure)
    assert expected.format(hub=hub.endpoint) in error_line(tmp_path, pin, capsys)
    vars(hub).update(healthy)
    cache = tmp_path / "outputs" / "sources"
    assert fetch(cache, stories=pin) == [STORIES], "the next attempt succeeds"


@pytest.mark.parametrize("offline", [False, True])
def test_offline_use_names_the_file_and_its_address(
    offline: bool,
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line names the URL, and the path for a file that is placed manually."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    point_to("http://127.0.0.1:9", monkeypatch)
    pin = hub.add("stories.txt", STORIES)
    line = error_line(tmp_path, pin, capsys)
    assert ("HF_HUB_OFFLINE is set; unset it" if offline else "refused; repeat the command") in line
    found = re.search(r"fetch (\S+) elsewhere and put it at (\S+)$", line)
    assert found and found[1] == f"http://127.0.0.1:9/datasets/{REPO}/resolve/{REVISION}/stories.txt"
    Path(found[2]).write_bytes(STORIES)
    assert run_cli(lambda: prepare.main(command(tmp_path, pin))) == 0
