"""`src.serve` as its clients use it: the `openai` library, and lm-eval's local-completions. Extra [clients]."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from src.data.tokenizer.bpe import EOT
from src.inference.lm_eval_model import as_lm_eval_model
from src.inference.text_model import TextModel
from src.runs.lm_eval_tasks import load_tasks
from src.serve import ModelServer
from tests.huggingface.cases import open_transformers
from tests.test_export import run as run_export
from tests.test_serve import PROMPT, model, run_folder, server, written

__all__ = ["model", "run_folder", "server"]  # fixtures
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of lm-eval, datasets and what they import
KEY = "secret"
GIVEN: dict[str, Any] = {"model": "name", "prompt": PROMPT, "max_tokens": 12}


@pytest.fixture
def client(server: ModelServer) -> Any:
    openai: Any = pytest.importorskip("openai")
    server.key = KEY
    return openai.OpenAI(base_url=f"{server.address}v1", api_key=KEY, max_retries=0)


def test_the_openai_client_reads_whole_and_streamed_texts(client: Any, model: TextModel) -> None:
    found = client.completions.create(**GIVEN, seed=3, n=2, logprobs=1)
    assert [each.text for each in found.choices] == [written(model, seed=3), written(model, seed=4)]
    tokens = [each.logprobs.tokens for each in found.choices]
    assert found.usage.completion_tokens == sum(map(len, tokens)) > 2
    assert [each.finish_reason for each in found.choices] == [
        "stop" if each[-1] == EOT else "length" for each in tokens
    ]
    pieces = list(client.completions.create(**GIVEN, temperature=0, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == written(model, temperature=0.0)
    assert len(pieces) > 3 and pieces[-1].choices[0].finish_reason == "length"
    assert [each.id for each in client.models.list()] == ["name"]


def test_the_openai_client_shows_errors(client: Any) -> None:
    openai: Any = import_module("openai")
    with pytest.raises(openai.BadRequestError, match="max_tokens=65: must be a number from 0 to 64"):
        client.completions.create(**GIVEN | {"max_tokens": 65})
    with pytest.raises(openai.NotFoundError, match="this is a base model, it has /v1/completions alone"):
        client.chat.completions.create(model="name", messages=[{"role": "user", "content": PROMPT}])
    with pytest.raises(openai.AuthenticationError, match="wrong or missing key"):
        client.with_options(api_key="wrong").completions.create(**GIVEN)


@pytest.mark.skipif(
    find_spec("lm_eval") is None or find_spec("tenacity") is None, reason="needs lm-eval with what its clients need"
)
def test_local_completions_of_lm_eval_give_our_numbers(
    server: ModelServer, model: TextModel, run_folder: Path, tmp_path: Path
) -> None:
    open_transformers(tmp_path / "transformers")
    folder = tmp_path / "export"
    assert run_export("format=huggingface", f"run={run_folder}", f"out={folder}") == 0
    api: Any = import_module("lm_eval.models.openai_completions").LocalCompletionsAPI
    asked = {"base_url": f"{server.address}v1/completions", "model": "name", "tokenizer": str(folder), "batch_size": 8}
    tasks, lm_eval = load_tasks(["story_grammar", "bash_idioms"]), import_module("lm_eval")
    for name, has_context in (("story_grammar", False), ("bash_idioms", True)):  # it adds a token itself to no context
        theirs = api(**asked, tokenizer_backend="huggingface", add_bos_token=has_context)
        found, expected = (
            lm_eval.evaluate(each, tasks.loaded[name], bootstrap_iters=0, limit=12)["samples"][name]
            for each in (theirs, as_lm_eval_model(model))
        )
        for sample, other in zip(found, expected, strict=True):
            pairs = zip(sample["filtered_resps"], other["filtered_resps"], strict=True)
            for (value, is_greedy), (wanted, is_wanted_greedy) in pairs:
                assert float(value) == pytest.approx(float(wanted), abs=1e-3) and is_greedy == is_wanted_greedy
