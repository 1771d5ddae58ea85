"""The notebooks run from top to bottom on a sweep, and contain no outputs."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "analysis").glob("*.ipynb"))


def run(name, directory, root, monkeypatch) -> tuple[int, str]:
    """Run a notebook on a directory; return the number of its charts and its printed text.

    Each chart is there as a picture and as a frame with the page's script.
    """
    monkeypatch.setenv("SWEEP_DIR", str(directory))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("IPYTHONDIR", str(root / "ipython"))
    notebook = nbformat.read(ROOT / "analysis" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": ROOT / "analysis"}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    frames = [output["data"]["text/html"] for output in outputs if "image/png" in output.get("data", {})]
    assert all(html.startswith("<iframe srcdoc=") and "Plotly.react" in html for html in frames)
    texts = [output.get("text", "") + output.get("data", {}).get("text/markdown", "") for output in outputs]
    return pictures, "".join(texts)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # warnings of Jupyter's own packages are not checked
def test_compare_architectures_runs_on_a_sweep(four, monkeypatch):
    pictures, text = run("compare_architectures", four.sweep, four.root, monkeypatch)
    assert pictures == 3 and text.index("moe has the fewest bits per byte") < 300 and "Once upon a time" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_learning_rates_runs_on_a_search(four, monkeypatch):
    trials = [{"learning_rate": 10**-n, "bits_per_byte": abs(n - 3) + 1.0} for n in (2, 3, 4)]
    search = {"size": "nano", "text": "grid", "rates": {"dense": {"trials": trials, "edge": None}}}
    (four.sweep / "learning_rates.json").write_text(json.dumps({"format_version": 1, "searches": [search]}))
    pictures, text = run("learning_rates", four.sweep, four.root, monkeypatch)
    assert (
        pictures == 1
        and "nano: the best learning rates are 0.001 for dense." in text
        and "| dense | nano | 0.001 | 1.000 | 3 | no |" in text
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_scaling_runs_on_a_sweep_of_sizes(builder, monkeypatch):
    for size, level in (("nano", 2.4), ("micro", 2.0)):
        run_dir = builder.add("dense", size=size, level=level)
        path = run_dir / "summary.json"
        summary = json.loads(path.read_text())
        summary["accounting"]["active_non_embedding_params"] *= 1 + (size == "micro")
        summary["stages"]["language"]["train_flops"] *= 1 + (size == "micro")
        path.write_text(json.dumps(summary))
    pictures, text = run("scaling", builder.sweep, builder.root, monkeypatch)
    assert pictures == 2 and "no interval: 2 sizes" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_contains_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) <= 12
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
