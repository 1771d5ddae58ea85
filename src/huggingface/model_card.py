"""The README of an exported model: what it is, its measured figures, how to use it. Unknown figures are left out."""

import json
import shlex
from typing import Any

from src.config.schema import ModelSpec, RecipeConfig, SamplingConfig
from src.huggingface.card_metadata import (
    METRICS,
    NOTHING_STATED,
    Stated,
    card_metadata,
    look_up,
    measured_figures,
    trained_corpora,
)
from src.huggingface.gguf_file import refusal_of
from src.huggingface.mapping import (
    LLAMA_CPP_TESTED_WITH,
    LM_EVAL_TESTED_WITH,
    MLX_NEEDED,
    MLX_TESTED_WITH,
    TESTED_WITH,
    Mapping,
)
from src.model.cost.model_cost import model_cost

USE = """\
## Use

The commands name this folder; of a model on the hub, write OWNER/NAME instead. With transformers (checked with
{version}):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({folder}{trust})
model = AutoModelForCausalLM.from_pretrained({folder}{trust})
prompt = {prompt}
tokens = tokenizer(prompt, return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(tokens, max_new_tokens={length})[0], skip_special_tokens=True))
```

Every document of the training data began with the end-of-text token. The tokenizer adds it, unless you pass
`add_special_tokens=False`. Its name within a text is tokenized as plain text.

{mlx}With lm-eval (its backend `hf` was checked with {lm_eval_version}):

```sh
lm_eval --model hf --model_args pretrained={shell_folder}{lm_eval_trust} --tasks TASKS
```

{gguf}Back to a model of Advanced Code Model, {exactness}:

```sh
python -m src.export format=ours source={shell_folder} out=OUT
python -m src.generate run=OUT prompt={shell_prompt}
```
"""


MLX = """\
With mlx-lm (checked with {version}, on its CPU build for Linux; not measured on a Mac):

```sh
mlx_lm.generate --model {folder} --prompt {prompt} --max-tokens {length}{trust}
```

"""
GGUF = """\
llama.cpp, Ollama and LM Studio read GGUF files, which are written from the run:

```sh
python -m src.export run=RUN format=gguf out=model.gguf
llama-completion -m model.gguf -no-cnv -p {prompt}    # checked in llama.cpp: {llama_version}
ollama create NAME -f model.Modelfile                 # not tried
ollama run NAME {prompt}                              # not tried
lms import model.gguf                                 # LM Studio; not tried
```

"""
NO_GGUF = """\
llama.cpp, Ollama and LM Studio cannot run it: {refusal}. No version is known that can; the one looked at is {version}.

"""
HYBRID_NEEDS = "It needs transformers 5.23 or a later 5.x; earlier versions lack parts of it and refuse it in one line."


def model_card(
    spec: ModelSpec,
    mapping: Mapping,
    folder: str,
    record: dict[str, Any],
    dtype: str = "f32",
    stated: Stated = NOTHING_STATED,
) -> str:
    """Write the README of a model exported to `folder`.

    record: run (its name), progress (of the checkpoint), summary and config (of the run, or None), and evaluated (of
    these weights, or None). dtype: type of the weights. stated: what no run knows.
    """
    summary = record["summary"] or {}
    stage = record["progress"]["stage"]
    prompts = look_up(record["config"], "stage", "stages", stage, "prompts") or []
    lines = prompts[0].strip().splitlines() if prompts else []
    prompt = lines[0] if lines else "Once upon a time"
    length = look_up(record["config"], "samples", "max_new_tokens") or SamplingConfig().max_new_tokens
    parts = [
        f"---\n{card_metadata(spec, mapping, record, stated)}\n---\n",
        f"# {record['run']}\n\n{_format_introduction(spec, summary)}\n",
        f"## Figures\n\n{_format_figures(spec, record)}\n",
        USE.format(
            version=TESTED_WITH,
            folder=json.dumps(folder),
            trust=", trust_remote_code=True" if mapping.code else "",
            length=length,
            prompt=json.dumps(prompt),
            shell_folder=shlex.quote(folder),
            mlx=MLX.format(
                version=MLX_TESTED_WITH,
                folder=shlex.quote(folder),
                prompt=shlex.quote(prompt),
                length=length,
                trust=" --trust-remote-code" if mapping.mlx_file else "",
            ),
            lm_eval_version=LM_EVAL_TESTED_WITH,
            lm_eval_trust=",trust_remote_code=True" if mapping.code else "",
            gguf=GGUF.format(prompt=shlex.quote(prompt), llama_version=LLAMA_CPP_TESTED_WITH)
            if (refusal := refusal_of(spec)) is None
            else NO_GGUF.format(refusal=refusal, version=LLAMA_CPP_TESTED_WITH),
            shell_prompt=shlex.quote(prompt),
            exactness="bit for bit" if dtype == "f32" else f"with its weights rounded to {dtype}",
        ),
        f"## Limits\n\n{_format_limits(spec, mapping, record, dtype, stated)}\n",
    ]
    return "\n".join(parts)


def _format_introduction(spec: ModelSpec, summary: dict[str, Any]) -> str:
    names = [f"{key} {summary[key]}" for key in ("size", "recipe") if summary.get(key)]
    kinds = ", ".join(f"{spec.blocks.count(kind)} {kind}" for kind in dict.fromkeys(spec.blocks))
    described = f" ({', '.join(names)})" if names else ""
    data = f" It was trained on the data `{summary['data']}`." if summary.get("data") else ""
    return (
        f"A language model of architecture `{spec.architecture}`{described}: {len(spec.blocks)} residual blocks "
        f"({kinds}) of width {spec.d_model}, with a vocabulary of {spec.vocab_size:,} tokens.{data} "
        "Made by Advanced Code Model, which trains small models of several architectures to compare them fairly."
    )


def _format_figures(spec: ModelSpec, record: dict[str, Any]) -> str:
    """List the known figures: of these weights first, then of the whole run."""
    progress, summary = record["progress"], record["summary"]
    cost = model_cost(spec, context_len=1)
    rows = [
        ("parameters", _format_number(cost.total_params)),
        ("active for a token", _format_number(cost.active_params)),
        ("without embeddings and head", _format_number(cost.non_embedding_params)),
        ("these weights", f"stage {progress['stage']}, step {_format_number(progress['step'])}"),
        ("tokens seen in this stage", _format_number(progress["tokens"])),
        ("validation loss (nats per token)", _format_number(progress["val_loss"])),
        ("validation bits per byte", _format_number(progress["val_bits_per_byte"])),
    ]
    if summary is not None:
        rows += [
            ("seed", _format_number(summary.get("seed"))),
            ("status of the run", str(summary.get("status"))),
            ("training context (tokens)", _format_number(look_up(summary, "contract", "training.seq_len"))),
            ("tokens, all stages", _format_number(look_up(summary, "final", "tokens"))),
            ("last validation loss", _format_number(look_up(summary, "final", "val_loss"))),
            ("last validation bits per byte", _format_number(look_up(summary, "final", "val_bits_per_byte"))),
            (
                "device, precision",
                ", ".join(str(look_up(summary, "contract", f"runtime.{key}")) for key in ("device", "precision")),
            ),
        ]
    rows += [
        (
            f"{figure.name}, {figure.split or 'lm-eval'}: {METRICS.get(figure.metric, figure.metric)}",
            _format_number(figure.value),
        )
        for figure in measured_figures(record)
        if figure.split != "validation"
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value is not None)
    missing = (
        "" if summary is not None else "\n\nThe run of this checkpoint has no summary, so no further figures are known."
    )
    return f"| | |\n|---|---|\n{table}{missing}"


def _format_number(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def lacking_in_mlx(spec: ModelSpec, mapping: Mapping) -> str | None:
    """Return what mlx-lm's class of a model does otherwise; None if it computes the same."""
    if mapping.model_type.startswith("mamba") and spec.norm_eps != RecipeConfig.norm_eps:
        return f"the norms of its Mamba add {RecipeConfig.norm_eps:g}, these {spec.norm_eps:g}"
    if "mamba" in spec.blocks and spec.n_groups > 1:
        return "its Mamba-2 norms all groups together"
    if any("attention" in kind for kind in spec.blocks):
        if spec.rope_scaling != "none" and mapping.model_type not in ("llama", "qwen2", "qwen3"):
            return "its attention in such a model has no scaled positions"
        if spec.attention_width != spec.d_model and mapping.model_type not in ("llama", "qwen3"):
            return "its attention in such a model has heads of d_model / n_heads alone"
    return None


def _format_limits(spec: ModelSpec, mapping: Mapping, record: dict[str, Any], dtype: str, stated: Stated) -> str:
    """List the limitations that follow from how the model was trained, and from what its clients have."""
    lines = [
        "A small model, trained from scratch on the text named above to compare architectures: its text may be wrong, "
        "its scripts may be harmful, and it has not been trained to be helpful or safe.",
        "The figures are those of one run, on the text named with them.",
    ]
    if spec.learned_positions:
        lines.append(f"It has {spec.learned_positions} learned positions and cannot read or write beyond them.")
    elif seq_len := look_up(record["summary"], "contract", "training.seq_len"):
        lines.append(f"It was trained on {seq_len} tokens at a time; beyond them it has not been evaluated here.")
    if dtype != "f32":
        lines.append(f"The weights are those of the run rounded to {dtype}. The figures are of the weights in fp32.")
    if mapping.code:
        lines.append(
            f"transformers has no such class: loading runs `modeling_hybrid.py` of this folder. {HYBRID_NEEDS}"
        )
        if not any("attention" in kind for kind in spec.blocks):
            lines.append(f"lm-eval {LM_EVAL_TESTED_WITH} scores it, but cannot generate with it: it has no attention.")
    if mapping.mlx_file:
        lines.append(
            f"mlx-lm has no such class: loading runs `{mapping.mlx_file}` of this folder, "
            f"for mlx-lm {MLX_NEEDED} or later."
        )
    if lacking := lacking_in_mlx(spec, mapping):
        lines.append(f"mlx-lm {MLX_TESTED_WITH} cannot run it exactly: {lacking}.")
    licenses = {str(corpus.get("licence")) for corpus in trained_corpora(record).values() if corpus.get("licence")}
    if licenses:
        lines.append(f"Its text is licensed as {', '.join(sorted(licenses))}.")
    if stated.license is None:
        lines.append("No license is stated here: ask the author of the run.")
    return "\n".join(f"- {line}" for line in lines)
