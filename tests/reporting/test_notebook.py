"""The notebook runs from top to bottom on a sweep."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "analysis" / "compare_architectures.ipynb"


@pytest.mark.filterwarnings("default")  # the warnings of Jupyter's own parts are not ours
def test_the_notebook_runs_on_a_sweep(four, monkeypatch):
    monkeypatch.setenv("SWEEP_DIR", str(four.sweep))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("IPYTHONDIR", str(four.root / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    printed = "".join(output.get("text", "") for output in outputs)
    assert "no verdict: 1 seed" in printed and "Once upon a time" in printed


def test_the_notebook_is_short_and_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) <= 12
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
