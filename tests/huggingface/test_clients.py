"""Exports as their users run them in transformers: sampling, pipeline, padded prompts, Trainer and LoRA.

Trainer and LoRA need accelerate and peft, of the extra [clients].
"""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.config.schema import SamplingConfig
from src.data.tokenizer.bpe import encode, load_tokenizer
from src.huggingface import read_folder
from src.inference.generation import generate
from src.model.language_model import LanguageModel, token_loss
from tests.huggingface.cases import exported, load, model_of, spec_of, tokens_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of transformers, accelerate and peft
needs_clients = pytest.mark.skipif(
    find_spec("peft") is None or find_spec("accelerate") is None, reason="needs accelerate and peft"
)
CASES = ("dense", "dense, grouped", "mamba")
LORA = {"dense": ["q_proj", "v_proj"], "dense, grouped": ["q_proj", "v_proj"], "mamba": ["in_proj"]}
"""The projections that LoRA adapts; peft refuses those of Mamba that its kernels read without calling them."""
STEPS = 3


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(case: str) -> LanguageModel:
    return model_of(spec_of(case), seed=5)


@pytest.fixture
def folder(model: LanguageModel, tmp_path: Path) -> Path:
    return exported(tmp_path / "export", model)


@torch.no_grad()
def test_sampled_tokens_have_our_probabilities(model: LanguageModel, folder: Path, transformers: Any) -> None:
    """2,000 draws of one token with the defaults of the folder: temperature 0.8, and the 50 likeliest."""
    theirs, tokens, n = load(transformers, folder), tokens_of(model.spec, 1, 20), 2000
    logits = model.logits(tokens)[0, -1] / 0.8
    expected = logits.masked_fill(logits < logits.topk(50).values[-1], -torch.inf).softmax(dim=-1)

    def draw(seed: int) -> Tensor:
        transformers.set_seed(seed)
        given = {"max_new_tokens": 1, "eos_token_id": None, "num_return_sequences": n}
        return theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **given)[:, -1]

    found = draw(1)
    assert torch.equal(found, draw(1)) and not torch.equal(found, draw(2))
    counted = torch.bincount(found, minlength=len(expected)) / n
    assert not counted[expected == 0].any()
    noise = (expected * (1 - expected) / n).sqrt().sum() / 2  # about what chance makes of the distance below
    assert (counted - expected).abs().sum() / 2 < 2 * noise


def continue_text(model: LanguageModel, folder: Path, prompt: str, n: int) -> str:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokens = generate(model, [0, *encode(tokenizer, prompt)], SamplingConfig(n, 0.0), stop=0)
    return tokenizer.decode(list(tokens))


def test_pipeline_writes_our_greedy_text(model: LanguageModel, folder: Path, transformers: Any) -> None:
    pipeline = transformers.pipeline("text-generation", str(folder), device="cpu")
    prompts = ["bab dad", "for i in 1 2; do"]
    given = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    expected = [continue_text(model, folder, prompt, 12) for prompt in prompts]
    assert [pipeline(prompt, **given)[0]["generated_text"] for prompt in prompts] == expected
    assert all(expected) and expected[0] != expected[1]


def test_prompts_padded_on_the_left_give_the_text_of_each(
    model: LanguageModel, folder: Path, transformers: Any
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = ["bab", "for i in 1 2; do echo", "dad bab dan kan"]
    given = tokenizer(prompts, return_tensors="pt", padding=True)
    assert (given.attention_mask[:, 0] == 0).any()
    found = load(transformers, folder).generate(**given, max_new_tokens=12, do_sample=False)
    texts = tokenizer.batch_decode(found[:, given.input_ids.shape[1] :], skip_special_tokens=True)
    assert texts == [continue_text(model, folder, prompt, 12) for prompt in prompts]


def train(transformers: Any, theirs: Any, tokens: Tensor, out: Path) -> list[float]:
    """Train with Trainer on the rows of tokens (B, T), all of them in each step. Returns the losses."""
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    settings = transformers.TrainingArguments(
        str(out), max_steps=STEPS, per_device_train_batch_size=len(rows), learning_rate=1e-2, weight_decay=0.0,
        lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(theirs, settings, train_dataset=rows)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def read_back(folder: Path, export: Path) -> LanguageModel:
    """Read weights that transformers saved, with the tokenizer of the export."""
    (folder / "tokenizer.json").write_bytes((export / "tokenizer.json").read_bytes())
    found = read_folder(folder)
    model = LanguageModel(found.spec)
    model.load_state_dict(found.weights)
    return model


@needs_clients
def test_trainer_trains_as_we_do(model: LanguageModel, folder: Path, transformers: Any, tmp_path: Path) -> None:
    theirs, tokens = load(transformers, folder), tokens_of(model.spec, 4, 33, seed=3)
    losses = train(transformers, theirs, tokens, tmp_path / "trainer")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for found in losses:
        loss = token_loss(model, model(tokens[:, :-1]), tokens[:, 1:])
        assert found == pytest.approx(loss.item(), abs=2e-3)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # Trainer's default
        optimizer.step()
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.1
    theirs.save_pretrained(tmp_path / "trained")
    with torch.no_grad():
        again = read_back(tmp_path / "trained", folder)
        torch.testing.assert_close(again.logits(tokens), theirs.eval()(tokens).logits, rtol=0, atol=1e-4)
        assert not torch.allclose(again.logits(tokens), model_of(model.spec, seed=5).logits(tokens), atol=0.1)


@needs_clients
def test_lora_adapts_an_export_and_comes_back_merged(
    case: str, model: LanguageModel, folder: Path, transformers: Any, tmp_path: Path
) -> None:
    peft: Any = import_module("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LORA[case], task_type="CAUSAL_LM")
    adapted, tokens = peft.get_peft_model(load(transformers, folder), settings), tokens_of(model.spec, 4, 33, seed=3)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    losses = train(transformers, adapted, tokens, tmp_path / "trainer")
    first = token_loss(model, model(tokens[:, :-1]), tokens[:, 1:]).item()
    assert losses[0] == pytest.approx(first, abs=2e-3), "an adapter begins with no effect"
    assert losses[-1] < losses[0] - 0.02
    adapted.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        again = read_back(tmp_path / "merged", folder)
        torch.testing.assert_close(again.logits(tokens), merged(tokens).logits, rtol=0, atol=1e-4)
        loaded = peft.PeftModel.from_pretrained(load(transformers, folder), tmp_path / "adapter").eval()
        torch.testing.assert_close(again.logits(tokens), loaded(tokens).logits, rtol=0, atol=1e-4)
