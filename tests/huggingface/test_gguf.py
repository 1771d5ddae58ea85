"""GGUF files: llama.cpp computes, generates and reads text as we do; what it does not have is refused in one line."""

import importlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from src.config.schema import ModelSpec, SamplingConfig, UserError
from src.data.tokenizer.bpe import EOT, build_character_tokenizer, train_tokenizer
from src.huggingface import gguf_file
from src.huggingface.gguf_file import describe_tokenizer, format_of, modelfile, write_gguf
from src.model.language_model import LanguageModel
from tests.huggingface.cases import model_of, spec_of, tokenizer_of, tokens_of
from tests.test_export import run_failing_export

GROUPED = ("dense, grouped", "dense, biases", "dense, wide QK-norm", "moe, grouped", "mamba, groups", "jamba, grouped")
CASES = ("dense", "dense, classic", "dense, QK-norm", "moe", "mamba", "mamba1", "jamba")
LENGTH, N_TOKENS = 20, 24


@contextmanager
def llama_cpp(path: Path) -> Iterator[Any]:
    """Load a file in llama.cpp, with a cache in fp32."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity, params.port = 128, 1, False, -1, 0
    params.cpuparams.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it has parts in fp16
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    yield xllamacpp.Server(params)


def written(folder: Path, model: LanguageModel, dtype: str = "f32", tokenizer: Tokenizer | None = None) -> Path:
    content = (tokenizer or tokenizer_of(model.spec.vocab_size)).to_str().encode()
    path = folder / "model.gguf"
    write_gguf(path, model.spec, model.state_dict(), content, EOT, dtype, "a model")
    return path


def ask(server: Any, path: str, **question: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.listening_address}/{path}", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


@torch.no_grad()
def compare(model: LanguageModel, server: Any) -> tuple[list[int], list[int], float]:
    """Return greedy tokens of ours and theirs, and the largest difference of log-probabilities at the first."""
    tokens = tokens_of(model.spec, 1, LENGTH)
    settings = {"temperature": 0, "n_probs": 5, "ignore_eos": True, "return_tokens": True}
    theirs = ask(server, "completion", prompt=tokens[0].tolist(), n_predict=N_TOKENS, **settings)
    expected = model.logits(tokens)[0, -1].log_softmax(dim=-1)
    shown = theirs["completion_probabilities"]  # llama.cpp leaves out tokens that are a part of a character
    assert shown[0]["id"] == theirs["tokens"][0], "draw another model"
    first = {top["id"]: top["logprob"] for top in shown[0]["top_logprobs"]}
    difference = max(abs(float(expected[index]) - value) for index, value in first.items())
    ours: list[int] = []
    for _ in range(N_TOKENS):
        logits = model.logits(tokens)[0, -1]
        logits[0] = -torch.inf
        ours.append(int(logits.argmax()))
        tokens = torch.cat([tokens, tokens.new_tensor([ours[-1:]])], dim=1)
    return ours, theirs["tokens"], difference


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_greedy_text_and_probabilities_equal_llama_cpp(case: str, tied: bool, tmp_path: Path) -> None:
    model = model_of(spec_of(case, tie_embeddings=tied), seed=7)
    with llama_cpp(written(tmp_path, model)) as server:
        ours, theirs, difference = compare(model, server)
    assert ours == theirs, theirs
    assert difference < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dense", "dense, QK-norm", "moe"])
def test_other_sizes_equal_llama_cpp(case: str, tmp_path: Path) -> None:
    model = model_of(spec_of(case, "odd"), seed=7)
    with llama_cpp(written(tmp_path, model)) as server:
        ours, theirs, difference = compare(model, server)
    assert ours == theirs, theirs
    assert difference < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", GROUPED)
def test_properties_of_other_models_equal_llama_cpp(case: str, tmp_path: Path) -> None:
    """Grouped and wide heads, biases of q, k and v, scaled positions, groups of Mamba-2."""
    spec = spec_of(case)
    model = model_of(replace(spec, d_inner=2 * spec.d_model), seed=4 if case == "dense, biases" else 7)
    with llama_cpp(written(tmp_path, model)) as server:
        ours, theirs, difference = compare(model, server)
    assert ours == theirs, theirs
    assert difference < 1e-3


def test_attention_that_llama_cpp_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"rope_scaling=llama3: llama\.cpp scales no positions so in its qwen3"):
        format_of(spec_of("dense, QK-norm", rope_scaling="llama3"))
    with pytest.raises(UserError, match=r"n_heads=6: llama\.cpp has heads of d_model / n_heads alone in its qwen2"):
        format_of(spec_of("dense, wide biases"))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.01), ("bf16", 0.05), ("q8_0", 0.05)])
@pytest.mark.parametrize("case", CASES)
def test_smaller_types_are_close(case: str, dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = model_of(replace(spec_of(case), d_ff=96, expert_d_ff=64))
    exact = written(tmp_path, model).stat().st_size
    (tmp_path / "model.gguf").unlink()
    path = written(tmp_path, model, dtype)
    assert path.stat().st_size < exact * (0.6 if dtype == "q8_0" else 0.75)
    with llama_cpp(path) as server:
        assert compare(model, server)[2] < tolerance


@pytest.mark.slow
def test_rows_that_cannot_be_quantized_are_said(tmp_path: Path) -> None:
    model = model_of(spec_of("dense"))  # d_ff=88
    content = tokenizer_of(model.spec.vocab_size).to_str().encode()
    notes = write_gguf(tmp_path / "model.gguf", model.spec, model.state_dict(), content, EOT, "q8_0", "a model")
    assert notes[1:] == ["2 matrices have rows that 32 does not divide: they are f16 instead of q8_0"]


@pytest.mark.slow
def test_llama_cpp_reads_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    script = "if [[ -n \"${x}\" ]]; then\n    ls -l 12 | grep 'é'\nfi\n\n\techo 3.14  foo's\n"
    texts = [script, "Once upon a time, there was a naïve 'cat'.\r\n\n\"Hi!\" <|endoftext|> x", " ", "日本語 ١٢"]
    model = model_of(spec_of("dense"))
    tokenizer = train_tokenizer([text * 3 for text in texts], model.spec.vocab_size, "qwen2")
    with llama_cpp(written(tmp_path, model, tokenizer=tokenizer)) as server:
        for text in texts:
            found = ask(server, "tokenize", content=text, add_special=True, parse_special=False)["tokens"]
            assert found == [0, *tokenizer.encode(text).ids], text


def test_only_a_known_pattern_has_a_name() -> None:
    for pattern, name in (("own", None), ("qwen2", "qwen2")):
        tokenizer = train_tokenizer(["some text, and some more text"] * 3, 300, pattern)
        vocabulary = describe_tokenizer(tokenizer.to_str().encode(), EOT, 300)
        assert vocabulary.pattern == name
        assert vocabulary.eot_id == 0 and len(vocabulary.tokens) == 300
        assert vocabulary.types[0] == gguf_file.CONTROL and vocabulary.types[1] == gguf_file.NORMAL
        assert (vocabulary.types[-1] == gguf_file.PADDING) is (tokenizer.get_vocab_size() < 300)


@pytest.mark.parametrize("case", ["hybrid", "griffin", "moe_hybrid", "gated deltanet"])
def test_models_that_llama_cpp_does_not_have_are_refused(case: str) -> None:
    with pytest.raises(UserError, match=r"llama\.cpp has no model with these \(in xllamacpp .*\); use"):
        format_of(spec_of(case))


def test_other_widths_of_the_state_are_refused() -> None:
    spec: ModelSpec = spec_of("mamba", "odd")
    with pytest.raises(UserError, match=r"d_inner=288: llama\.cpp needs twice d_model=96"):
        format_of(spec)


def test_character_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"llama\.cpp has no such tokenizer"):
        describe_tokenizer(build_character_tokenizer(["abc"], 9).to_str().encode(), EOT, 9)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gguf is not installed; pip install .*\[gguf\]"):
        format_of(spec_of("dense"))


def test_modelfile_continues_text_with_the_sampling_of_the_run() -> None:
    text = modelfile("my.gguf", SamplingConfig(temperature=0.5, top_k=7, max_new_tokens=9), EOT)
    assert 'FROM ./my.gguf\nTEMPLATE "{{ .Prompt }}"\nPARAMETER temperature 0.5\nPARAMETER top_k 7\n' in text
    assert text.endswith('PARAMETER num_predict 9\nPARAMETER stop "<|endoftext|>"\n')


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("format=gguf", "out={}/model"), "give a file that ends in .gguf"),
        (("format=gguf", "out={}/x.gguf", "dtype=int4"), "dtype=int4: must be one of f32, f16, bf16, q8_0"),
        (
            ("format=huggingface", "out={}/x", "dtype=f16"),
            "dtype=f16: for format=huggingface, must be one of f32, bf16",
        ),
        (("format=gguf", "out={}/x.gguf", "license=mit"), "license: is for format=huggingface; leave it out"),
        (("format=gguf", "out={}/x.gguf", "push=a/b"), "push: is for format=huggingface; leave it out"),
        (("format=huggingface", "out={}/x", "license=My own"), "license=My own: not an identifier of the hub"),
        (("format=huggingface", "out={}/x", "language=[English]"), "language=English: not a code of ISO 639"),
        (("format=gguf", "out={}/taken.gguf"), "already exists and is no export of this command; give a new path"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.gguf").write_bytes(b"GGUF of another program")
    found = run_failing_export(capsys, "run=x", *(argument.format(tmp_path) for argument in arguments))
    assert line in found
