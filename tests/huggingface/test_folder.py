"""The exported folder: exact round trips, also through transformers; tokenizer, generation defaults and model card."""

import ast
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tokenizers import Tokenizer

from src.config.schema import ROOT, ModelSpec, SamplingConfig
from src.data.tokenizer.bpe import EOT, encode, load_tokenizer
from src.huggingface import mapping_of, read_folder
from src.huggingface.card_metadata import Stated
from src.huggingface.export_model import generation_config
from src.huggingface.import_model import Imported
from src.huggingface.model_card import model_card
from src.huggingface.post_processor import add_post_processor, remove_post_processor
from src.model.language_model import LanguageModel
from tests.huggingface.cases import BLOCKS, SIZES, exported, load, model_of, spec_of, tokenizer_of, tokens_of

TEXTS = [
    "", " ", "  leading", "trailing  ", "\n", "\n\n  indented\n\tx", "a\r\nb", "naïve 🐢 日本 \u200d", "don't 'tis",
    EOT, f"a{EOT}b", f"{EOT}{EOT}", f" {EOT} ", "<|endoftext", "#!/bin/bash\nset -e\nx=${y[1]}", "123 4.5e6",
    "<s>", "</s>", "<unk>", "[PAD]", "\x00\x7f", "e\u0301", "ﬁ", "\u00a0x", "▁x", "Ġx", "a ,b . c !", "don 't",
]  # fmt: skip


def same_weights(model: LanguageModel, found: Imported) -> bool:
    weights = model.state_dict()
    return weights.keys() == found.weights.keys() and all(
        torch.equal(weights[name], tensor) and tensor.dtype == torch.float32 for name, tensor in found.weights.items()
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", BLOCKS)
def test_round_trip_is_exact(case: str, size: str, tmp_path: Path) -> None:
    model = model_of(spec_of(case, size, aux_loss_weight=0.02, n_experts=7, max_seq_len=77))
    found = read_folder(exported(tmp_path / "out", model, run="name", more=[1, None]))
    assert found.spec == model.spec
    assert same_weights(model, found)
    assert found.record is not None and (found.record["run"], found.record["more"]) == ("name", [1, None])
    assert found.tokenizer == tokenizer_of(model.spec.vocab_size).to_str().encode()
    assert found.tokenizer != (tmp_path / "out" / "tokenizer.json").read_bytes()


def relevant(spec: ModelSpec) -> dict[str, Any]:
    """Return the settings in the configuration of the mapping."""
    return {"blocks": spec.blocks, **mapping_of(spec).config(spec)}


@pytest.mark.parametrize("case", BLOCKS)
def test_folder_saved_by_transformers_is_read(case: str, transformers: Any, tmp_path: Path) -> None:
    """Without our own file, config.json is sufficient."""
    model = model_of(spec_of(case))
    load(transformers, exported(tmp_path / "out", model)).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "advanced_code_model.json").exists()
    (tmp_path / "again" / "tokenizer.json").write_bytes((tmp_path / "out" / "tokenizer.json").read_bytes())
    found = read_folder(tmp_path / "again")
    assert relevant(found.spec) == relevant(model.spec)
    assert found.spec.architecture == "imported" and found.record is None
    assert same_weights(model, found)


def test_llama_of_transformers_is_read(transformers: Any, tmp_path: Path) -> None:
    """A Llama initialized by transformers, in bf16, with a configuration as before transformers 5."""
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-5,
    )
    theirs = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    for key in ("rope_parameters", "head_dim", "attention_bias", "mlp_bias"):
        values.pop(key, None)
    file.write_text(json.dumps(values | {"rope_theta": 10000.0, "rope_scaling": None}), encoding="utf-8")
    other = exported(tmp_path / "other", model_of(spec_of("dense", "odd")))
    (tmp_path / "theirs" / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes())
    found = read_folder(tmp_path / "theirs")
    ours = LanguageModel(found.spec)
    ours.load_state_dict(found.weights)
    tokens = tokens_of(found.spec, 1, 20)
    with torch.no_grad():
        assert torch.allclose(ours.logits(tokens), theirs.float()(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("case", ["dense", "dense, classic", "mamba", "moe", "hybrid", "jamba"])
def test_tokenizer_gives_our_ids(case: str, transformers: Any, tmp_path: Path) -> None:
    out = exported(tmp_path / "out", model_of(spec_of(case)))
    theirs = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    ours = load_tokenizer(out / "tokenizer.json")
    for text in TEXTS:
        ids = encode(ours, text)
        assert theirs(text).input_ids == [0, *ids] and theirs.encode(text, add_special_tokens=False) == ids, text
        assert theirs.decode(ids) == text
        assert theirs.decode([0, *ids, 0], skip_special_tokens=True) == text
    assert theirs(TEXTS[1:], padding=False).input_ids == [[0, *encode(ours, text)] for text in TEXTS[1:]]
    assert theirs("a").keys() == {"input_ids", "attention_mask"}  # the arguments of `generate`
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (0, 0, 0, 512)


def test_generation_config_equals_the_run(transformers: Any, tmp_path: Path) -> None:
    out = exported(tmp_path / "out", model_of(spec_of("dense")))
    given = transformers.GenerationConfig.from_pretrained(out)
    drawn = (given.do_sample, given.temperature, given.top_k, given.top_p, given.use_cache)
    assert drawn == (True, 0.8, 50, 1.0, True)
    assert (given.bos_token_id, given.eos_token_id, given.pad_token_id) == (0, 0, 0)
    greedy = generation_config(SamplingConfig(temperature=0), use_cache=True)
    assert greedy["do_sample"] is False and "temperature" not in greedy
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["pad_token_id"] is None


@pytest.mark.parametrize("case", ["dense", "dense, classic"])
def test_length_of_the_caller_is_used(case: str, transformers: Any, tmp_path: Path) -> None:
    out = exported(tmp_path / "out", model_of(spec_of(case)))
    model, tokens = load(transformers, out), torch.tensor([[0, 5, 7]])
    assert model.generate(tokens, max_length=10, eos_token_id=None).shape == (1, 10)
    assert model.generate(tokens, max_new_tokens=10, eos_token_id=None).shape == (1, 13)


@pytest.mark.parametrize(
    "given", ["null", ' {"type": "ByteLevel",\n "add_prefix_space": true, "trim_offsets": false} ']
)
def test_only_the_post_processor_changes_and_is_restored(given: str) -> None:
    plain = tokenizer_of(300).to_str().replace('"post_processor":null', f'"post_processor" : {given}')
    changed, before = add_post_processor(plain.encode(), EOT, 0)
    assert before == given.strip(" ")
    assert Tokenizer.from_buffer(changed).encode("x").ids[0] == 0
    assert remove_post_processor(changed, EOT, 0, before) == plain.encode()
    assert remove_post_processor(plain.encode(), EOT, 0) == plain.encode()
    other = b'{ "post_processor\\"": {"post_processor": 1}, "a":[] ,\n"post_processor":2}'
    assert add_post_processor(other, EOT, 0)[0].startswith(other[:-2] + b'{"type": "TemplateProcessing"')


def test_tokenizer_is_restored_without_the_record(tmp_path: Path) -> None:
    out = exported(tmp_path / "out", model_of(spec_of("dense")))
    (out / "advanced_code_model.json").unlink()
    assert read_folder(out).tokenizer == tokenizer_of(512).to_str().encode()


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        out = exported(tmp_path / "out", model_of(spec_of("hybrid")))
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in out.iterdir()} == {"0o640"}


RECORD: dict[str, Any] = {
    "run": "dense-nano-language-s3-0a1b2c3d",
    "progress": {"stage": "language", "step": 1234, "tokens": 56789, "val_loss": 1.23456, "val_bits_per_byte": 0.9876},
    "config": {"stage": {"stages": {"language": {"prompts": ["It's a prompt"]}}}},
    "summary": {
        "size": "nano", "recipe": "modern", "data": "embedded", "seed": 3, "status": "done",
        "contract": {"training.seq_len": 256, "runtime.device": "cpu", "runtime.precision": "fp32"},
        "final": {"tokens": 99999, "val_loss": 1.5, "val_bits_per_byte": 1.1},
    },
}  # fmt: skip


EVALUATED = {
    "corpus": "code",
    "test": {"language": {"loss": 1.25, "bits_per_byte": 0.75}, "code": {"loss": None, "bits_per_byte": 0.5}},
    "tasks": {"bash_syntax": {"metrics": {"acc": {"value": 0.875}, "ppl": {"value": None}}}},
}
CORPORA = {
    "language": {"source": "hub", "repo": "somebody/stories", "licence": "CDLA-Sharing-1.0"},
    "code": {"source": "git", "repo": None, "licence": None},
}


def metadata_of(card: str) -> dict[str, Any]:
    """Return the metadata as the hub's library reads it."""
    read = ModelCard(card)
    assert read.text.startswith("\n# ")
    return read.data.to_dict()


def test_card_has_the_figures_of_the_run() -> None:
    spec = spec_of("dense")
    card = model_card(spec, mapping_of(spec), "out", RECORD)
    count = sum(parameter.numel() for parameter in model_of(spec).parameters())
    for expected in (f"{count:,}", "step 1,234", "56,789", "1.2346", "0.9876", "99,999", "1.5000", "`embedded`", "256"):
        assert expected in card, expected
    assert metadata_of(card).keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert """prompt='It'"'"'s a prompt'\n""" in card and 'prompt = "It\'s a prompt"\n' in card
    assert "None" not in card and "{}" not in card and "trust_remote_code" not in card
    assert "lms import model.gguf" in card and "bit for bit" in card


def test_card_has_license_languages_data_and_results_for_the_hub() -> None:
    spec = spec_of("dense")
    stages = {
        "language": {"corpus": "language", "prompts": []},
        "later": {"corpus": "code", "mixture": {"language": 0.25}},
        "never": {"corpus": "task"},
    }
    record = RECORD | {
        "progress": RECORD["progress"] | {"stage": "later"},
        "config": {"stage": {"stages": stages}, "data": CORPORA},
        "evaluated": EVALUATED,
    }
    card = model_card(spec, mapping_of(spec), "out", record, "bf16", Stated("apache-2.0", ("en", "de")))
    found = metadata_of(card)
    assert found["license"] == "apache-2.0" and found["language"] == ["en", "de", "code"]
    assert found["datasets"] == ["somebody/stories"]
    ((model,),) = (found["model-index"],)
    assert model["name"] == RECORD["run"]
    results = {
        (result["dataset"]["type"], result["dataset"]["name"], result["dataset"].get("split"), metric["type"]): metric[
            "value"
        ]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert results == {
        ("embedded", "embedded (code)", "validation", "loss"): 1.23456,
        ("embedded", "embedded (code)", "validation", "bits_per_byte"): 0.9876,
        ("somebody/stories", "embedded (language)", "test", "loss"): 1.25,
        ("somebody/stories", "embedded (language)", "test", "bits_per_byte"): 0.75,
        ("embedded", "embedded (code)", "test", "bits_per_byte"): 0.5,
        ("bash_syntax", "bash_syntax", None, "acc"): 0.875,
    }
    assert "| embedded (code), test: Bits per byte | 0.5000 |" in card
    assert "rounded to bf16" in card and "bit for bit" not in card
    assert "licensed as CDLA-Sharing-1.0" in card and "No license is stated" not in card


def test_results_of_two_corpora_of_the_same_data_are_two_for_the_hub() -> None:
    spec, tests = spec_of("dense"), {name: {"bits_per_byte": value} for name, value in (("a", 1.0), ("b", 2.0))}
    card = model_card(spec, mapping_of(spec), "out", RECORD | {"evaluated": {"test": tests, "tasks": {}}})
    found = {
        (each["dataset"]["config"], each["dataset"]["split"]): [metric["value"] for metric in each["metrics"]]
        for each in metadata_of(card)["model-index"][0]["results"]
    }
    assert found == {("text", "validation"): [1.23456, 0.9876], ("a", "test"): [1.0], ("b", "test"): [2.0]}


@pytest.mark.parametrize("case", BLOCKS)
def test_card_says_what_clients_need_and_cannot_run(case: str) -> None:
    spec = spec_of(case)
    card = model_card(spec, mapping_of(spec), "out", RECORD)
    has_code = BLOCKS[case][0] == "HybridForCausalLM"
    assert ("It needs transformers 5.23 or a later 5.x" in card) == has_code
    assert ("for mlx-lm 0.31 or later" in card) == (has_code or case == "dense, classic")
    assert ("llama.cpp has no model with these" in card) == has_code
    assert ("llama.cpp needs twice d_model" in card) == (
        not has_code and spec.d_inner != 2 * spec.d_model and spec.blocks[0].startswith("mamba")
    )
    lacks = "cannot run it exactly" in card
    wide = ("dense, wide biases", "windows alone, wide")
    assert lacks == (case in ("mamba, groups", "moe, grouped", "hybrid, grouped", "jamba, grouped", *wide))
    other = replace(spec, norm_eps=1e-6)
    found = "cannot run it exactly" in model_card(other, mapping_of(other), "out", RECORD)
    assert found == (lacks or BLOCKS[case][0].startswith("Mamba"))
    assert ("cannot generate with it" in card) == (has_code and not any("attention" in kind for kind in spec.blocks))


@pytest.mark.parametrize("case", ["dense", "dense, classic", "mamba", "moe", "hybrid", "gated deltanet"])
@torch.no_grad()
def test_bf16_is_half_the_size_and_our_rounded_model(case: str, transformers: Any, tmp_path: Path) -> None:
    model = model_of(spec_of(case))
    sizes = [
        (exported(tmp_path / dtype, model, dtype) / "model.safetensors").stat().st_size for dtype in ("f32", "bf16")
    ]
    assert sizes[1] < 0.55 * sizes[0]
    folder, tokens = tmp_path / "bf16", tokens_of(model.spec, 2, 40)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    rounded = LanguageModel(model.spec)
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    found = read_folder(folder)
    assert found.spec == model.spec and same_weights(rounded, found)
    theirs = load(transformers, folder)
    assert theirs.dtype == torch.bfloat16, "as the file says"
    expected = rounded.logits(tokens)
    assert torch.allclose(theirs.float()(tokens).logits, expected, atol=1e-4)
    if case != "moe":  # rounded scores choose other experts
        half = load(transformers, folder)(tokens).logits.float()
        assert (half - expected).abs().max() < 0.1 * expected.abs().max()


def test_card_without_a_summary() -> None:
    spec = spec_of("hybrid")
    progress = {"stage": "language", "step": 5, "tokens": 70, "val_loss": None, "val_bits_per_byte": None}
    card = model_card(spec, mapping_of(spec), "out", {**RECORD, "progress": progress, "config": None, "summary": None})
    assert "has no summary" in card and "validation loss" not in card and "None" not in card
    assert "trust_remote_code=True" in card and "loading runs `modeling_hybrid.py` of this folder" in card


@pytest.mark.slow
def test_only_the_exported_module_and_baselines_import_transformers() -> None:
    """Export and import work without transformers."""
    for path in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {
            f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        found = [name for name in imported if re.search(r"^transformers|modeling_hybrid", name)]
        assert bool(found) == (path.name in ("modeling_hybrid.py", "baselines.py")), path
