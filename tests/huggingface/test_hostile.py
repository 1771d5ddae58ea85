"""Broken or malicious folders: nothing is executed, and one line names the file and the problem."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.config.schema import UserError
from src.huggingface import read_folder
from tests.conftest import Bomb
from tests.huggingface.cases import exported, model_of, spec_of

FILES = ("config.json", "model.safetensors", "tokenizer.json", "advanced_code_model.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exported(tmp_path / "out", model_of(spec_of("moe", repeat=1)))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_folder(folder)
    line = str(error.value)
    assert "\n" not in line and len(line) < 600
    return line.replace(f"{folder}/", "")


def edit(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in (values | changes).items() if value is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("saved", [pickle.dumps, None])
def test_pickle_in_place_of_a_file_is_not_opened(
    name: str, saved: Callable[[object], bytes] | None, folder: Path, tmp_path: Path
) -> None:
    bomb = Bomb(tmp_path / "executed")
    if saved is None:
        torch.save(bomb, folder / name)
    else:
        (folder / name).write_bytes(saved(bomb))
    assert refused(folder).startswith(f"{name}: ")
    assert not (tmp_path / "executed").exists()


def test_code_and_pickles_beside_the_model_are_ignored(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for name in ("modeling_hybrid.py", "modeling_mixtral.py", "configuration_mixtral.py", "__init__.py"):
        (folder / name).write_text(f"import os\nos.mkdir({str(mark)!r})\n", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    read_folder(folder)
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_mixtral.Mixtral"})
    assert refused(folder).startswith("config.json: auto_map: code in a folder is never executed")
    (folder / "model.safetensors").unlink()
    assert refused(folder) == "model.safetensors: no such file; weights in pickled files (.bin, .pt) are not read"
    assert not mark.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_named(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    assert refused(folder).startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["config.json", "advanced_code_model.json"])
@pytest.mark.parametrize(
    "content", ["[1]", "null", '"x"', "[" * 99999, '{"a":' * 99999, f'{{"a": {"9" * 9999}}}', "{}"]
)
def test_invalid_json_is_named(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert refused(folder).startswith(f"{name}: ")


@pytest.mark.parametrize("name", FILES)
def test_folder_in_place_of_a_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refused(folder).startswith(f"{name}: ")


@pytest.mark.parametrize("name", [*FILES, "tokenizer_config.json"])
def test_dangling_link_or_pipe_in_place_of_a_file_is_named(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "nowhere")
    assert refused(folder).startswith(f"{name}: ")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refused(folder).startswith(f"{name}: not a regular file")


def test_folder_of_links_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name in [*FILES, "tokenizer_config.json"]:
        (folder / name).rename(tmp_path / "blobs" / name)
        (folder / name).symlink_to(tmp_path / "blobs" / name)
    assert read_folder(folder).weights


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"eos_token": ' + b"9" * 5000, b"\xff"]
)
@pytest.mark.parametrize("name", FILES)
def test_files_with_wrong_content_are_named(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    assert refused(folder).startswith(f"{name}: ")


ODD = [None, [], {}, "x", "a\x1b[31m\nb", -1, 7, 10**4000, 1e308, float("nan"), True, [1], {"a": 1}, [None], "\ud800"]


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("advanced_code_model.json", "tokenizer_config.json")),
    ],
)
def test_any_value_is_read_or_named(name: str, folder: Path) -> None:
    whole = json.loads((folder / name).read_text(encoding="utf-8"))
    places = [(key,) for key in whole] + [("spec", key) for key in whole.get("spec", ())] + [("spec", "blocks", 0)]
    for place in places:
        for value in ODD:
            content = json.loads(json.dumps(whole))
            try:
                *outer, last = place
                reduce(lambda part, key: part[key], outer, content)[last] = value
            except KeyError:  # this file has no such part
                continue
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
            with suppress(UserError):
                read_folder(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model_type": "gpt_neox"},
            "model_type='gpt_neox': unsupported (this program lacks attention and mlp in parallel)",
        ),
        ({"model_type": "qwen2"}, "num_local_experts=4: unknown setting of Qwen2ForCausalLM"),
        ({"model_type": ["mixtral"]}, "model_type=['mixtral']: unsupported"),
        ({"model_type": ...}, "model_type=None: unsupported"),
        ({"model_type": "llama"}, "num_local_experts=4: unknown setting of LlamaForCausalLM"),
        ({"hidden_size": ...}, "has shape [512, 64], config.json needs [512, 4096]"),
        ({"hidden_size": 64.0}, "hidden_size=64.0: must be a whole number"),
        ({"hidden_size": True}, "hidden_size=True: must be a whole number"),
        ({"hidden_size": 0}, "hidden_size=0: must be a whole number"),
        ({"hidden_size": 10**30}, "must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000: must be a whole number from 1 to"),
        ({"num_local_experts": 10**9}, "num_local_experts=1000000000: must be a whole number from 1 to"),
        ({"num_attention_heads": 64, "head_dim": None}, "head_dim=1: must be even, since RoPE rotates pairs"),
        ({"num_attention_heads": 3}, "num_key_value_heads=4: must divide num_attention_heads=3"),
        ({"num_attention_heads": 8}, "has shape [64, 64], config.json needs [128, 64]"),
        ({"num_key_value_heads": 2}, "has shape [64, 64], config.json needs [32, 64]"),
        ({"num_key_value_heads": ...}, "num_key_value_heads=8: must divide num_attention_heads=4"),
        ({"num_experts_per_tok": 1}, "top_k=1: MixtralForCausalLM"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5: more than the 4 experts there are"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': not supported, only 'silu' is"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps=-1e-06: must be a number above 0"),
        ({"rms_norm_eps": True}, "rms_norm_eps=True: must be a number above 0"),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            "rope_theta=10000.0: contradicts rope_param",
        ),
        ({"rope_parameters": ..., "rope_theta": "x"}, "rope_theta='x': must be a number above 0"),
        ({"rope_parameters": ..., "rope_theta": 10**4000}, "must be a number above 0"),
        ({"rope_parameters": [1]}, "rope_parameters=[1]: must be a JSON object"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type='yarn': this program has linear and llama3"),
        ({"rope_scaling": {"type": ["linear"]}}, "rope_type=['linear']: this program has linear and llama3"),
        ({"rope_scaling": {"type": "linear"}}, "factor=None: must be a number above 0"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 1.0,
                    "original_max_position_embeddings": 64,
                }
            },
            "low_freq_factor must be below high_freq_factor",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, "lacks partial rotary"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic': this program has linear and llama3",
        ),
        (
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor=0.5: unknown setting of MixtralForCausalLM; this program",
        ),
        ({"model_type": "t5"}, "model_type='t5': unsupported (this program lacks an encoder)"),
        ({"is_causal": False}, "is_causal=False: unknown setting"),
        ({"sliding_window": 16}, "sliding_window=16: not supported, only None is"),
        (
            {"tie_word_embeddings": True},
            "model.safetensors: lm_head.weight differs from model.embed_tokens.weight, but",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}: unknown setting"),
        ({"vocab_size": 511}, "tokenizer.json: has 512 tokens, config.json has vocab_size=511"),
        ({"intermediate_size": 41}, "has shape [40, 64], config.json needs [41, 64]"),
        ({"num_hidden_layers": 2}, "model.layers.1.block_sparse_moe.experts.0.w1.weight is missing (19 tensors"),
        ({"hidden_size": 2**20, "head_dim": None}, "has shape [512, 64], config.json needs [512, 1048576]"),
        (
            {"intermediate_size": 2**31 - 1, "hidden_size": 2**31 - 8, "head_dim": None},
            "model.safetensors: does not match config.json",
        ),
    ],
)
def test_unsupported_settings_are_named(changes: dict[str, Any], expected: str, folder: Path) -> None:
    (folder / "advanced_code_model.json").unlink()
    edit(folder / "config.json", **changes)
    assert expected in refused(folder)


@pytest.mark.parametrize(
    ("case", "changes", "expected"),
    [
        ("mamba", {"expand": 3}, "num_heads=8: not supported, only 12 is"),
        ("mamba", {"n_groups": 8}, "in_proj.weight has shape [296, 64], config.json needs [520, 64]"),
        ("mamba", {"n_groups": 3}, "n_groups=3: must divide the 8 heads"),
        ("mamba", {"head_dim": 24, "num_heads": 5}, "128 channels are not a multiple of the size of a head, 24"),
        (
            "mamba",
            {"time_step_limit": [0.001, 0.1]},
            "time_step_limit=[0.001, 0.1]: not supported, only [0.0, 65504.0] is",
        ),
        ("mamba1", {"time_step_rank": 5}, "time_step_rank=5: not supported, only 4 is"),
        ("dense", {"head_dim": 8}, "q_proj.weight has shape [64, 64], config.json needs [32, 64]"),
        ("dense", {"attention_bias": True}, "attention_bias=True: not supported"),
        ("dense", {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 1}, "head_dim=1: must be even"),
        ("dense", {"num_attention_heads": 6, "num_key_value_heads": 2}, "n_heads=6: LlamaForCausalLM needs a divisor"),
        (
            "dense, classic",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx=True: not supported",
        ),
        ("dense, classic", {"n_inner": None}, "has shape [64, 88], config.json needs [64, 256]"),
        (
            "hybrid",
            {"layer_types": ["linear_attention"] * 3},
            "num_hidden_layers=4: differs from the number of layer types",
        ),
        ("hybrid", {"layer_types": ["conv"] * 4}, "'conv': unknown type of layer"),
        ("hybrid", {"layer_types": [1, 2, 3, 4]}, "layer_types=[1, 2, 3, 4]: must be a list of names"),
        (
            "hybrid",
            {"layer_types": ["full_attention"] * 4},
            "model_type=advanced_code_model_hybrid: its layers require",
        ),
        ("hybrid", {"feed_forward_types": ["mlp"] * 3 + ["../x"]}, "'../x': unknown type of layer"),
        ("hybrid", {"sliding_window": None}, "sliding_window=None: must be a whole number"),
        ("hybrid", {"attention_multiplier": 1.0}, "attention_multiplier=1.0: not supported, only 0.25 is"),
        ("jamba", {"model_type": "advanced_code_model_hybrid"}, "feed_forward_types=None: must be a list"),
        ("jamba", {"num_local_experts": 2}, "num_local_experts=2: not supported, only 0 is"),
    ],
)
def test_unsupported_settings_of_other_classes_are_named(
    case: str, changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = exported(tmp_path / "out", model_of(spec_of(case)))
    (folder / "advanced_code_model.json").unlink()
    edit(folder / "config.json", **changes)
    assert expected in refused(folder)


def test_wrong_tensors_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    gate = "model.layers.0.block_sparse_moe.gate.weight"

    def changed(**tensors: torch.Tensor | None) -> str:
        new = {name: tensor for name, tensor in {**weights, **tensors}.items() if tensor is not None}
        save_file({name: tensor.contiguous() for name, tensor in new.items()}, file)
        return refused(folder)

    assert changed(**{gate: None}) == f"model.safetensors: {gate} is missing (1 tensors in all)"
    assert "'more' does not belong to the model of config.json" in changed(more=torch.zeros(1))
    assert changed(**{gate: weights[gate].T}) == (
        f"model.safetensors: {gate} has shape [64, 4], config.json needs [4, 64]"
    )
    assert f"{gate!r} is of type I64" in changed(**{gate: weights[gate].long()})
    for bad in (float("nan"), float("inf")):
        broken = weights[gate].clone()
        broken[1, 2] = bad
        assert changed(**{gate: broken}) == f"model.safetensors: {gate} holds numbers that are not finite"
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    assert refused(folder).startswith("model.safetensors: cannot be read as safetensors")
    file.write_bytes(struct.pack("<Q", 2**62) + header)
    assert refused(folder).startswith("model.safetensors: cannot be read as safetensors")


def test_wrong_shards_are_named(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        save_file({name: weights[name].contiguous() for name in held}, folder / file)
    index = folder / "model.safetensors.index.json"
    listed = {name: file for file, held in parts.items() for name in held}

    def with_index(weight_map: Any) -> str:
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
        return refused(folder)

    for odd in (None, [], {}, "x"):
        assert with_index(odd) == f"{index.name}: weight_map: must name the file of each tensor"
    for odd in ("../a.safetensors", "/etc/passwd", "a.bin", 1, None):
        assert "is not the name of a safetensors file beside it" in with_index({**listed, names[0]: odd})
    assert with_index({**listed, names[0]: "c.safetensors"}).startswith("c.safetensors: no such file, but")
    assert with_index({**listed, names[0]: "b.safetensors"}).startswith(f"a.safetensors: {index.name} lists other tens")
    assert "such as 'more'" in with_index({**listed, "more": "a.safetensors"})
    index.write_text(json.dumps({"weight_map": listed}), encoding="utf-8")
    assert read_folder(folder).weights
    (folder / "b.safetensors").write_bytes((folder / "b.safetensors").read_bytes()[:-9])
    assert refused(folder).startswith("b.safetensors: cannot be read as safetensors")


def test_wrong_tokenizers_are_named(folder: Path, tmp_path: Path) -> None:
    other = exported(tmp_path / "other", model_of(spec_of("dense", "odd")))
    other_tokens = (other / "tokenizer.json").read_text(encoding="utf-8")
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") != other_tokens
    text = other_tokens.replace("<|endoftext|>", "<eos>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    assert refused(folder).startswith("tokenizer.json: has no token '<|endoftext|>' to end a text; name its own in")
    (other / "tokenizer.json").write_bytes((tmp_path / "out" / "tokenizer.json").read_bytes())
    edit(other / "tokenizer_config.json", eos_token="<eos>")
    assert read_folder(other).eot == "<eos>"
    (folder / "tokenizer.json").unlink()
    assert refused(folder) == "tokenizer.json: no such file"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format_version": 99}, "format_version=99: this program reads 1"),
        ({"spec": ...}, "spec: not the description of a model"),
        ({"spec": []}, "spec: not the description of a model"),
        ({"spec": {"blocks": ["attention"]}}, "spec: not the description of a model"),
    ],
)
def test_invalid_record_is_named(changes: dict[str, Any], expected: str, folder: Path) -> None:
    edit(folder / "advanced_code_model.json", **changes)
    assert expected in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 128},
        {"top_k": 3},
        {"blocks": ["attention", "mlp"]},
        {"blocks": ["os", "sys"]},
        {"norm": "layernorm"},
    ],
)
def test_record_of_another_model_is_rejected(changes: dict[str, Any], folder: Path) -> None:
    file = folder / "advanced_code_model.json"
    spec = json.loads(file.read_text(encoding="utf-8"))["spec"]
    edit(file, spec=spec | changes)
    assert refused(folder) == "advanced_code_model.json: spec: describes another model than config.json"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "none")
