"""The bootstrap interval over documents: its coverage and its errors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.reporting import load_runs
from src.reporting.statistics.documents import difference_over_documents, losses_of
from src.reporting.tables.secondary import further_tables


def make_seed(nats: np.ndarray, n_bytes: np.ndarray) -> dict[str, Any]:
    return {"first": list(range(len(nats))), "nats": nats.tolist(), "bytes": n_bytes.tolist()}


def test_the_difference_is_over_all_bytes_and_a_constant_one_has_no_spread() -> None:
    n_bytes = np.arange(100, 130)
    worse, better = (losses_of([make_seed(math.log(2) * bits * n_bytes, n_bytes)]) for bits in (2.5, 2.0))
    assert worse and better
    found = difference_over_documents(worse, better)
    assert found and found.n_documents == 30
    assert [found.value, found.low, found.high] == pytest.approx([0.5, 0.5, 0.5])
    back = difference_over_documents(better, worse)
    assert back and back.value == pytest.approx(-0.5)


def test_the_interval_has_the_stated_coverage() -> None:
    draw, n_bytes, hits = np.random.default_rng(0), np.full(60, 200), 0
    for _ in range(200):
        gaps = 0.3 + draw.normal(0, 0.4, 60)
        model = losses_of([make_seed(gaps * math.log(2) * 200, n_bytes)])
        other = losses_of([make_seed(np.zeros(60), n_bytes)])
        assert model and other
        found = difference_over_documents(model, other)
        assert found is not None
        hits += found.low <= 0.3 <= found.high
    assert 178 <= hits <= 198, "95% of 200 is 190, give or take four standard deviations"


def test_seeds_are_averaged_and_must_have_the_same_documents() -> None:
    n_bytes = np.full(12, 10)
    one, other = make_seed(np.full(12, 1.0), n_bytes), make_seed(np.full(12, 3.0), n_bytes)
    mean = losses_of([one, other])
    assert mean and mean.nats.tolist() == [2.0] * 12
    assert losses_of([]) is None and losses_of([{}]) is None
    assert losses_of([one, other | {"first": list(range(1, 13))}]) is None
    assert losses_of([one | {"nats": [1.0] * 11}]) is None
    assert losses_of([one | {"nats": [*[1.0] * 11, None]}]) is None, "a model that broke has no number"
    few = losses_of([make_seed(np.ones(9), n_bytes[:9])])
    assert few and difference_over_documents(few, few) is None, "nine documents tell nothing"


def evaluate(run_dir: Path, bits: float, documents: int) -> None:
    """Write an evaluation of stage language on `documents` documents of 100 bytes."""
    n_bytes = np.full(documents, 100)
    draw = np.random.default_rng(1).normal(0, 0.1, documents)
    entry = {
        "corpus": "language",
        "test": {"language": {"loss": bits, "bits_per_byte": bits, "tokens": 100}},
        "documents": {"language": make_seed((bits + draw) * math.log(2) * 100, n_bytes)},
    }
    (run_dir / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": {"language": entry}}))


def test_a_table_compares_every_architecture_with_the_best(builder: Any) -> None:
    for seed in range(3):
        evaluate(builder.add("dense", seed), 2.0 + seed / 100, 20)
        evaluate(builder.add("hybrid", seed), 1.5, 20)
    (table,) = [each for each in further_tables(load_runs(builder.sweep)) if each.title == "Differences over documents"]
    assert table.table.rows == [["language", "hybrid", "dense", "0.510", "0.510 to 0.510", "20"]]
    assert "bootstrap" in table.note
