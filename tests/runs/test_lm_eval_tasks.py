"""Tasks of lm-eval on our own models: the numbers of its backend `hf` on the exported model. Extra [lm-eval]."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src import evaluate
from src.cli.command import run_cli
from src.inference.lm_eval_model import as_lm_eval_model
from src.inference.text_model import TextModel
from src.runs import lm_eval_tasks
from src.runs.lm_eval_tasks import load_tasks
from src.runtime.records import DIGEST
from tests.huggingface.cases import exported, model_of, open_transformers, spec_of, tokenizer_of
from tests.integration import tiny

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra lm-eval")
SETTINGS = ("context_factor", "probes", "probe_sequences", "scripts")
CASES = ("dense", "dense, classic", "moe", "mamba", "hybrid", "gated deltanet")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval, datasets and what they import


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_transformers(tmp_path_factory.getbasetemp() / "transformers")


def run_evaluate(*arguments: str) -> int:
    return run_cli(lambda: evaluate.main([*arguments, "device=cpu"]))


def both(case: str, folder: Path, transformers: Any) -> tuple[Any, Any]:
    """Return a model as lm-eval asks it, in our program and exported."""
    model = model_of(spec_of(case), seed=3).eval()
    tokenizer = tokenizer_of(model.spec.vocab_size)
    out = exported(folder / "model", model)
    has_code = (out / "modeling_hybrid.py").exists()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, trust_remote_code=has_code)
    backend = import_module("lm_eval.models.huggingface").HFLM
    known = transformers.AutoTokenizer.from_pretrained(out)
    eot_id = tokenizer.token_to_id("<|endoftext|>")
    assert eot_id is not None
    ours = as_lm_eval_model(TextModel(out, model, tokenizer, eot_id))
    return ours, backend(
        pretrained=theirs,
        tokenizer=known,
        batch_size=4,
        device="cpu",
        max_length=ours.max_length,
        trust_remote_code=True,
    )


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_the_hf_backend(case: str, tmp_path: Path, transformers: Any) -> None:
    ours, theirs = both(case, tmp_path, transformers)
    long = "for i in 1 2; do echo $i; done\n" * 30  # longer than the context
    pairs = requests(("bab ", "dad kak"), ("", "for i in"), ("echo $i", ";"), (long, " done"), ("x  ", "\n y"))
    for (value, greedy), (expected, is_greedy) in zip(
        ours.loglikelihood(pairs), theirs.loglikelihood(pairs), strict=True
    ):
        assert value == pytest.approx(expected, abs=2e-3) and greedy == is_greedy
    texts = requests(("bab dad kak",), (long,))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts), rel=1e-5)
    if case == "gated deltanet":  # lm-eval asks for a cache, which transformers has for models with attention alone
        return
    settings = {"until": ["\n\n"], "max_gen_toks": 20}
    asked = requests(("bab dad", settings), ("for i in 1", settings))
    assert ours.generate_until(asked) == theirs.generate_until(asked)


@needs_lm_eval
@pytest.mark.slow
def test_scores_of_our_tasks_equal_those_of_the_hf_backend(tmp_path: Path, transformers: Any) -> None:
    ours, theirs = both("dense", tmp_path, transformers)
    names = ["bash_syntax", "bash_idioms", "story_grammar"]
    tasks, lm_eval = load_tasks(names), import_module("lm_eval")
    for name in names:
        found, expected = (lm_eval.evaluate(model, tasks.loaded[name], bootstrap_iters=0) for model in (ours, theirs))
        hits, other = ([sample["acc"] for sample in each["samples"][name]] for each in (found, expected))
        assert len(hits) == 300 and hits == other and 0 < sum(hits) < 300


@needs_lm_eval
def test_scores_join_the_evaluation_and_are_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, tmp_path, "evaluation.probes=false") == 0
    run = tiny.only_run(tmp_path)
    before = json.loads((run / "evaluation.json").read_text())
    same = [f"evaluation.{name}={str(value).lower()}" for name, value in before["settings"].items() if name in SETTINGS]
    options = (f"run={run}", *same)
    assert run_evaluate(*options, "tasks=[story_grammar]") == 0
    shown = capsys.readouterr()
    assert "story_grammar" in shown.out and "Scoring the language stage on story_grammar" in shown.err
    content = json.loads((run / "evaluation.json").read_text())
    task = content["stages"]["language"]["tasks"]["story_grammar"]
    hits = task["metrics"]["acc"]["items"]
    assert task["n"] == len(hits) == 300 and task["metrics"]["acc"]["value"] == pytest.approx(sum(hits) / 300)
    del content["stages"]["language"]["tasks"], content[DIGEST], before[DIGEST]
    assert content == before, "nothing else has changed"
    assert run_evaluate(*options, "tasks=[story_grammar,bash_syntax]") == 0
    log = capsys.readouterr().err
    assert "on bash_syntax" in log and "on story_grammar" not in log, "done already"
    assert run_evaluate(f"run={run}", "evaluation.probes=true") == 0
    kept = json.loads((run / "evaluation.json").read_text())["stages"]["language"]
    assert kept["tasks"]["story_grammar"] == task and kept["probes"], "tasks survive another evaluation"


def test_a_missing_extra_and_unknown_tasks_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiny.run(data, tmp_path, "evaluation.enabled=false") == 0
    run = tiny.only_run(tmp_path)
    if find_spec("lm_eval") is not None:
        capsys.readouterr()
        assert run_evaluate(f"run={run}", "tasks=[bash_sintax]") == 2
        assert "tasks=bash_sintax: no task of lm-eval; ours are bash_idioms, bash_syntax" in capsys.readouterr().err
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    capsys.readouterr()
    assert run_evaluate(f"run={run}", "tasks=[bash_syntax]") == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "the extra lm-eval is not installed; pip install" in shown.err
    assert not (run / "evaluation.json").exists(), "refused before anything was measured"
