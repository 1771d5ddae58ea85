"""The items as lm-eval takes them: the `custom_dataset` of the YAML files beside this one. Extra [lm-eval]."""

from importlib import import_module
from typing import Any

from src.evaluation.lm_eval_tasks.scripts import idiom_items, syntax_items
from src.evaluation.lm_eval_tasks.stories import grammar_items


def bash_syntax(**_: Any) -> dict[str, Any]:
    return _as_test(syntax_items())


def bash_idioms(**_: Any) -> dict[str, Any]:
    return _as_test(idiom_items())


def story_grammar(**_: Any) -> dict[str, Any]:
    return _as_test(grammar_items())


def _as_test(items: list[dict[str, str]]) -> dict[str, Any]:
    datasets: Any = import_module("datasets")
    return {"test": datasets.Dataset.from_list(items)}
