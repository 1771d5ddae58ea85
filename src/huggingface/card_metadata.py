"""The metadata on top of a model card, as the Hugging Face hub reads it: license, languages, data sets and results.

Source: modelcard.md of huggingface/hub-docs. Results are the run's own, of exactly these weights.
"""

from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from src.config.schema import ModelSpec
from src.huggingface.mapping import Mapping

TASK = "text-generation"
METRICS = {"loss": "Loss (nats per token)", "bits_per_byte": "Bits per byte", "accuracy": "Accuracy"}
"""The figures of a text, with their names."""


class Stated(NamedTuple):
    """What a card says that no run knows."""

    license: str | None = None
    """Identifier of the hub."""
    languages: tuple[str, ...] = ()
    """Codes of ISO 639; empty: those that follow from the data."""


NOTHING_STATED = Stated()


class Figure(NamedTuple):
    """A measured figure of these weights."""

    dataset: str
    config: str | None
    """The corpus; results with the same data set, corpus and split are shown as one."""
    name: str
    split: str | None
    metric: str
    value: float


def card_metadata(spec: ModelSpec, mapping: Mapping, record: dict[str, Any], stated: Stated) -> str:
    """Return the metadata as YAML, without the lines that enclose it and without a line break at its end."""
    corpora = trained_corpora(record)
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=figure.dataset,
            dataset_name=figure.name,
            dataset_config=figure.config,
            dataset_split=figure.split,
            metric_type=figure.metric,
            metric_name=METRICS.get(figure.metric),
            metric_value=round(figure.value, 6),
        )
        for figure in measured_figures(record)
    ]
    languages = [*(stated.languages or _languages(corpora)), *(["code"] if "code" in corpora else [])]
    datasets = [corpus["repo"] for corpus in corpora.values() if corpus.get("source") == "hub" and corpus.get("repo")]
    metadata = ModelCardData(
        language=list(dict.fromkeys(languages)) or None,
        license=stated.license,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[mapping.model_type, "advanced-code-model", *dict.fromkeys(spec.blocks)],
        datasets=list(dict.fromkeys(datasets)) or None,
        model_name=str(record["run"]) or "model",
        eval_results=results or None,
    )
    return metadata.to_yaml()


def trained_corpora(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the corpora that the weights were trained on, by name; empty where the run has none."""
    config, found = record["config"], {}
    for name, stage in (look_up(config, "stage", "stages") or {}).items():
        if stage.get("branch_of") and name != record["progress"]["stage"]:
            continue
        for corpus in (stage.get("corpus"), *(stage.get("mixture") or {})):
            if settings := look_up(config, "data", corpus):
                found[corpus] = settings
        if name == record["progress"]["stage"]:
            break
    return found


def measured_figures(record: dict[str, Any]) -> list[Figure]:
    """List the figures of these weights: on validation text, on test text, and on tasks of lm-eval."""
    progress, data = record["progress"], str(look_up(record["summary"], "data") or "own data")
    evaluated = record.get("evaluated") or {}
    corpus = look_up(record["config"], "stage", "stages", progress["stage"], "corpus")
    texts = [(str(corpus or evaluated.get("corpus") or "text"), "validation", _validation(progress))]
    texts += [(name, "test", values or {}) for name, values in evaluated.get("test", {}).items()]
    found = [
        Figure(
            look_up(record["config"], "data", name, "repo") or data,
            name,
            f"{data} ({name})",
            split,
            metric,
            values[metric],
        )
        for name, split, values in texts
        for metric in METRICS
        if isinstance(values.get(metric), int | float)
    ]
    for task, result in evaluated.get("tasks", {}).items():
        values = {name: each["value"] for name, each in result["metrics"].items() if each["value"] is not None}
        found += [Figure(task, None, task, None, metric, value) for metric, value in values.items()]
    return found


def look_up(values: Any, *path: str) -> Any:
    """Return what is at a path of keys in nested mappings, or None."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _validation(progress: dict[str, Any]) -> dict[str, Any]:
    return {metric: progress.get(f"val_{metric}") for metric in METRICS}


def _languages(corpora: dict[str, dict[str, Any]]) -> list[str]:
    """Return the natural languages that are known: that of generated stories."""
    return ["en"] if any(corpus.get("source") == "stories" for corpus in corpora.values()) else []
