"""The README of an exported model: what it is, its measured figures, how to use it. Unknown figures are left out."""

import json
import shlex
from typing import Any

from src.config.schema import ModelSpec, SamplingConfig
from src.huggingface.gguf_file import FORMATS
from src.huggingface.mapping import LM_EVAL_TESTED_WITH, MLX_TESTED_WITH, TESTED_WITH, Mapping
from src.model.cost.model_cost import model_cost

USE = """\
## Use

With transformers (checked with {version}):

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

{gguf}Back to a model of Advanced Code Model, bit for bit:

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
llama.cpp, Ollama and LM Studio read GGUF files, which are written from the run (checked in llama.cpp; Ollama and LM
Studio were not run):

```sh
python -m src.export run=RUN format=gguf out=model.gguf
llama-completion -m model.gguf -no-cnv -p {prompt}
ollama create NAME -f model.Modelfile
```

"""
NO_GGUF = "llama.cpp, Ollama and LM Studio cannot run it: llama.cpp has no {class_name}.\n\n"


def model_card(spec: ModelSpec, mapping: Mapping, folder: str, record: dict[str, Any]) -> str:
    """Write the README of a model exported to `folder`.

    record: run (its name), progress (of the checkpoint), summary and config (of the run, or None).
    """
    summary = record["summary"] or {}
    stage = record["progress"]["stage"]
    prompts = _look_up(record["config"], "stage", "stages", stage, "prompts") or []
    lines = prompts[0].strip().splitlines() if prompts else []
    prompt = lines[0] if lines else "Once upon a time"
    length = _look_up(record["config"], "samples", "max_new_tokens") or SamplingConfig().max_new_tokens
    parts = [
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n{_format_tags(spec, mapping)}\n---\n",
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
            gguf=GGUF.format(prompt=shlex.quote(prompt))
            if mapping.class_name in FORMATS
            else NO_GGUF.format(class_name=mapping.class_name),
            shell_prompt=shlex.quote(prompt),
        ),
        f"## Limits\n\n{_format_limits(spec, mapping, summary)}\n",
    ]
    return "\n".join(parts)


def _look_up(values: Any, *path: str) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _format_tags(spec: ModelSpec, mapping: Mapping) -> str:
    return "\n".join(f"- {tag}" for tag in (mapping.model_type, "advanced-code-model", *dict.fromkeys(spec.blocks)))


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
            ("training context (tokens)", _format_number(_look_up(summary, "contract", "training.seq_len"))),
            ("tokens, all stages", _format_number(_look_up(summary, "final", "tokens"))),
            ("last validation loss", _format_number(_look_up(summary, "final", "val_loss"))),
            ("last validation bits per byte", _format_number(_look_up(summary, "final", "val_bits_per_byte"))),
            (
                "device, precision",
                ", ".join(str(_look_up(summary, "contract", f"runtime.{key}")) for key in ("device", "precision")),
            ),
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


def _format_limits(spec: ModelSpec, mapping: Mapping, summary: dict[str, Any]) -> str:
    """List the limitations that follow from how the model was trained."""
    lines = [
        "A small model, trained from scratch on the text named above to compare architectures: its text may be wrong, "
        "its scripts may be harmful, and it has not been trained to be helpful or safe.",
        "The figures are those of one run on the validation windows of its own data; no other benchmark was run.",
    ]
    if spec.learned_positions:
        lines.append(f"It has {spec.learned_positions} learned positions and cannot read or write beyond them.")
    elif seq_len := _look_up(summary, "contract", "training.seq_len"):
        lines.append(f"It was trained on {seq_len} tokens at a time; beyond them it has not been evaluated here.")
    if mapping.code:
        lines.append("transformers has no such class: loading runs `modeling_hybrid.py` of this folder.")
    if mapping.mlx_file:
        lines.append(f"mlx-lm has no such class: loading runs `{mapping.mlx_file}` of this folder.")
    lines.append("No license is stated here: ask the author of the run.")
    return "\n".join(f"- {line}" for line in lines)
