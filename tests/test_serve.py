"""`src.serve` and `src.chat`: answers equal those of `src.generate`; limits, keys and hosts; sessions."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src import chat, serve
from src.cli.command import run_cli
from src.config.schema import ChatConfig, SamplingConfig, ServeConfig, UserError
from src.inference.completions import Completions
from src.inference.text_model import TextModel
from src.runs.open_model import open_text_model
from src.serve import ModelServer
from tests.browser import needs_browser, probe
from tests.integration import tiny

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serve")
    assert tiny.run(data, root, "architecture=dense", "training.max_steps=4", "optimizer.learning_rate=0.01") == 0
    return tiny.only_run(root)


@pytest.fixture(scope="module")
def model(run_folder: Path) -> TextModel:
    return open_text_model(str(run_folder), "cpu", 1)


@pytest.fixture
def server(model: TextModel) -> Iterator[ModelServer]:
    config = ServeConfig(run="x", max_new_tokens=64)
    server = ModelServer(Completions(model, "name", config.max_new_tokens, config.max_seconds), config)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server: ModelServer, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, content, {"Content-Type": "application/json", **named})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def choice(server: ModelServer, **body: Any) -> dict[str, Any]:
    status, text = ask(server, {"prompt": PROMPT, "max_tokens": 12, **body})
    assert status == 200, text
    return json.loads(text)["choices"][0]


def written(model: TextModel, seed: int = 0, temperature: float = 1.0, n: int = 12, top_k: int = 0) -> str:
    sampling = SamplingConfig(max_new_tokens=n, temperature=temperature, top_k=top_k, seed=seed)
    return "".join(model.stream(model.read(PROMPT), sampling))


def test_texts_equal_those_of_generate(server: ModelServer, model: TextModel) -> None:
    samplings: list[dict[str, Any]] = [{"seed": 3}, {"seed": 4, "temperature": 0.5, "top_k": 7}, {"temperature": 0.0}]
    for sampling in samplings:
        found = choice(server, **sampling)
        assert found["text"] == written(model, **sampling)
    tokens = model.read(PROMPT)
    assert choice(server, prompt=tokens, seed=3)["text"] == written(model, seed=3)
    status, text = ask(server, {"prompt": [PROMPT, tokens], "max_tokens": 12, "seed": 3, "n": 2})
    answer = json.loads(text)
    assert status == 200
    assert [each["text"] for each in answer["choices"]] == [written(model, seed=seed) for seed in (3, 4, 3, 4)]
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 2 * len(tokens) == usage["total_tokens"] - usage["completion_tokens"]
    assert found["finish_reason"] == "length", "the most probable tokens do not end the text"


USE = """<script>
const wait = (test) => new Promise((done) => {
  const timer = setInterval(() => { if (test()) { clearInterval(timer); done(); } }, 20);
});
addEventListener("load", async () => {
  await wait(() => at("title").textContent === "name");
  const found = {};
  at("text").value = "Once upon a time";
  for (const [id, value] of [["temperature", "1"], ["top_k", "0"], ["max_tokens", "12"], ["seed", "3"]]) {
    at(id).value = value;
  }
  at("go").click();
  found.busy = [at("go").disabled, at("stop").disabled];
  await wait(() => !at("go").disabled);
  found.text = at("text").value;
  at("undo").click();
  found.undone = at("text").value;
  at("max_tokens").value = "9999";
  at("form").noValidate = true;
  at("go").click();
  await wait(() => !at("go").disabled);
  found.error = at("error").textContent;
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
});
</script></body>"""
"""Types a prompt, continues it, takes that back, and asks for more tokens than the server gives."""


@needs_browser
def test_the_page_continues_a_text_in_a_browser(
    server: ModelServer, model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text(serve.PAGE.read_text(encoding="utf-8").replace("</body>", USE), encoding="utf-8")
    monkeypatch.setattr(serve, "PAGE", page)
    found, _ = probe(f"http://127.0.0.1:{server.server_port}/", "--virtual-time-budget=2000000")
    assert found["busy"] == [True, False]
    assert found["text"] == PROMPT + written(model, seed=3) and found["undone"] == PROMPT
    assert "max_tokens" in found["error"]


def test_a_stream_has_the_same_text_in_parts(server: ModelServer, model: TextModel) -> None:
    status, text = ask(server, {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True})
    assert status == 200
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(part["choices"][0]["text"] for part in parts) == written(model, temperature=0.0)
    assert parts[-1]["choices"][0]["finish_reason"] == "length" and len({part["id"] for part in parts}) == 1


def test_a_stream_ends_with_the_usage_if_asked(server: ModelServer) -> None:
    body = {"prompt": PROMPT, "max_tokens": 5, "seed": 1}
    _, text = ask(server, body | {"stream": True, "stream_options": {"include_usage": True}})
    last = json.loads(text.split("\n\n")[-3].removeprefix("data: "))
    assert last["choices"] == [] and last["usage"] == json.loads(ask(server, body)[1])["usage"]


def test_an_error_of_the_server_is_an_answer(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(question: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as context:
        context.setattr(server.completions, "answer", fail)
        status, text = ask(server, {"prompt": PROMPT})
    assert status == 500 and json.loads(text)["error"]["type"] == "server_error"
    assert ask(server, {"prompt": PROMPT, "max_tokens": 1})[0] == 200, "the next request is answered"
    assert "serve: RuntimeError: out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_text_ends_before_a_stop(server: ModelServer, model: TextModel, is_streamed: bool) -> None:
    whole = written(model, temperature=0.0)
    stop = whole[3:8]
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stop": ["never there", stop], "stream": is_streamed}
    _, text = ask(server, body)
    parts = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line not in ("data: [DONE]", "")]
    assert "".join(part["choices"][0]["text"] for part in parts) == whole[: whole.index(stop)]
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"


@torch.no_grad()
def test_logprobs_of_prompt_and_text(server: ModelServer, model: TextModel) -> None:
    found = choice(server, temperature=0, echo=True, logprobs=2, max_tokens=3)
    assert found["text"] == PROMPT + written(model, temperature=0.0, n=3)
    tokens = model.read(found["text"])
    expected = model.model.logits(torch.tensor([tokens]))[0].log_softmax(dim=-1)
    own = [float(expected[i, token]) for i, token in enumerate(tokens[1:])]
    shown = found["logprobs"]
    assert shown["token_logprobs"][0] is None and shown["token_logprobs"][1:] == pytest.approx(own, abs=1e-4)
    assert [max(top.values()) for top in shown["top_logprobs"][-3:]] == pytest.approx(own[-3:], abs=1e-4)
    assert len(shown["tokens"]) == len(tokens) == len(shown["text_offset"])
    assert found["text"][shown["text_offset"][-1] :] == shown["tokens"][-1]
    assert choice(server, temperature=0, logprobs=1)["logprobs"]["token_logprobs"][0] == pytest.approx(
        shown["token_logprobs"][-3], abs=1e-4
    )


def test_the_token_that_ends_a_text_has_a_logprob_and_no_text(
    server: ModelServer, model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval leaves out the last log-probability of an answer to max_tokens=1, as that of the new token."""

    def generate_end(*_: Any) -> Iterator[int]:
        yield model.eot_id

    monkeypatch.setattr("src.inference.completions.generate", generate_end)
    found = choice(server, echo=True, logprobs=1, max_tokens=1)
    assert (found["text"], found["finish_reason"]) == (PROMPT, "stop")
    shown = found["logprobs"]
    assert shown["tokens"][-1] == "<|endoftext|>" and len(shown["token_logprobs"]) == len(model.read(PROMPT)) + 1
    assert shown["text_offset"][-1] == len(PROMPT)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_ends_when_its_time_is_over(
    model: TextModel, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """Each reading of the clock takes a second."""
    completions = Completions(model, "name", 64, max_seconds=5)
    question = completions.check({"prompt": PROMPT, "temperature": 0, "max_tokens": 64, "n": 1 if is_streamed else 4})
    readings = iter(range(1000))
    monkeypatch.setattr("src.inference.completions.time.monotonic", lambda: next(readings))
    if is_streamed:
        *parts, last = completions.stream(question)
        assert 2 <= len(parts) <= 5 and last["choices"][0]["finish_reason"] == "length"
        return
    answer = completions.answer(question)
    assert len(answer["choices"]) == 4 and 2 <= answer["usage"]["completion_tokens"] <= 5
    assert (answer["choices"][-1]["text"], answer["choices"][-1]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"{", "the request is not JSON"),
        (b"[" * 100_000, "the request is not JSON"),
        ([], "the request must be an object"),
        ({"prompt": 1}, "prompt: must be a text, tokens, or a list of these"),
        ({"prompt": []}, "prompt: is an empty list"),
        ({"prompt": [10**9]}, "prompt: tokens must be from 0 to"),
        ({"prompt": [-1]}, "prompt: tokens must be from 0 to"),
        ({"prompt": "\ud800"}, "prompt: is not valid text"),
        ({"prompt": [[0] * 40_000]}, "prompt: 40000 tokens; at most 32768"),
        ({"max_tokens": 65}, "max_tokens=65: must be a number from 0 to 64"),
        ({"max_tokens": True}, "max_tokens=True: must be a number"),
        ({"temperature": float("nan")}, "temperature=nan: must be a number"),
        ({"n": 65}, "n=65: must be a number from 1 to 64"),
        ({"prompt": ["a", "b"], "n": 40}, "prompt, n: 80 texts; at most 64"),
        ({"stop": [1]}, "stop: must be a text, or a list of texts"),
        ({"top_p": 0.5}, "top_p: is not supported; leave it out"),
        ({"best_of": 2}, "best_of: is not supported; leave it out"),
        ({"stream": True, "n": 2}, "stream: is for one text"),
        ({"stream_options": [1]}, "stream_options: must be an object"),
    ],
)
def test_wrong_requests_are_one_line(server: ModelServer, body: Any, line: str) -> None:
    status, text = ask(server, body)
    assert status == 400 and line in json.loads(text)["error"]["message"]


def test_other_hosts_types_sizes_and_paths_are_refused(server: ModelServer) -> None:
    assert ask(server, {}, Host="example.com")[0] == 403
    assert ask(server, {}, Content_Type="text/plain")[0] == 415
    assert ask(server, {}, Content_Length=str(2 << 20))[0] == 413, "refused by the header, before it is read"
    assert ask(server, {}, path="/v1/chat/completions")[0] == 404
    server.key = "secret"
    assert ask(server, {"max_tokens": 1})[0] == 401
    assert ask(server, {"max_tokens": 1}, Authorization="Bearer wrong")[0] == 401
    assert ask(server, {"max_tokens": 1}, Authorization="Bearer secret")[0] == 200


def test_the_page_and_the_list_of_models(server: ModelServer) -> None:
    for path, part in (("/", "<textarea"), ("/v1/models", '"id": "name"'), ("/../serve.py", "no such path")):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert part in answer.read().decode()
        assert "default-src 'none'" in (answer.headers["Content-Security-Policy"] or "")
        connection.close()


def test_a_port_in_use_is_one_line(server: ModelServer, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: serve.main([f"run={run_folder}", f"port={server.server_port}"])) == 2
    assert "Address already in use; leave it out for a free one" in capsys.readouterr().err


def test_an_empty_key_is_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: serve.main(["run=x", "key="])) == 2
    assert capsys.readouterr().err == "error: key: is empty; give a text, or leave it out to need none\n"


def test_a_session_changes_settings_in_place(model: TextModel, capsys: pytest.CaptureFixture[str]) -> None:
    session = chat.Session(model, ChatConfig(run="x", max_new_tokens=12, temperature=1.0, top_k=0, seed=3))

    def answer(line: str) -> str:
        session.answer(line)
        return capsys.readouterr().out.removesuffix("\n")

    assert answer(PROMPT) == PROMPT + written(model, seed=3)
    assert answer("/again") == PROMPT + written(model, seed=4)
    assert answer("/temperature 0") == answer("/temperature") == "temperature 0"
    greedy = written(model, temperature=0.0)
    assert answer("/again") == PROMPT + greedy
    assert answer("/more").startswith(PROMPT + greedy)
    assert answer(r"a\nb").startswith("a\nb")
    assert answer("//bin/ls").startswith("/bin/ls")
    assert answer("/history") == rf"{PROMPT}" + "\na\\nb\n/bin/ls"
    assert "/max_new_tokens" in answer("/help") and answer("") == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/seed x", "/seed x: must be a number"),
        ("/top_k -1", "top_k=-1: must not be negative"),
        ("/unknown", "/unknown: no such command"),
        ("/again", "/again: there is no prompt yet"),
    ],
)
def test_mistakes_in_a_session_change_nothing(model: TextModel, line: str, message: str) -> None:
    session = chat.Session(model, ChatConfig(run="x"))
    with pytest.raises(UserError, match=message):
        session.answer(line)
    assert session.settings == ChatConfig(run="x") and not session.prompts


def test_the_command_reads_prompts_from_standard_input(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\n/unknown\n/quit\nnot read\n"))
    assert run_cli(lambda: chat.main([f"run={run_folder}", "max_new_tokens=3"])) == 0
    output = capsys.readouterr()
    assert output.out.startswith(PROMPT) and "not read" not in output.out
    assert output.err == "error: /unknown: no such command; /help lists them, and //unknown begins a text\n"


@pytest.mark.parametrize("command", [chat.main, serve.main])
def test_a_missing_run_is_one_line(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: command([f"run={tmp_path / 'none'}"])) == 2
    assert (
        capsys.readouterr().err
        == f"error: run={tmp_path / 'none'}: no such folder; give a run directory, as in the last line of a run\n"
    )
