"""The memory that an export and an import take: tensors are read and written one at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.config.schema import ROOT
from src.huggingface.convert_run import export_run
from src.huggingface.tensor_file import state_shapes
from src.training.checkpoint import save_checkpoint
from src.training.progress import Progress
from tests.huggingface.cases import BLOCKS, model_of, spec_of, tokenizer_of

MEASURE = """
import sys
from pathlib import Path
from src.huggingface.convert_run import export_gguf, export_run, import_run

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

source, out, format, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
if format == "gguf":
    import gguf
import huggingface_hub.repocard_data
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = resident("VmRSS:")
if format == "ours":
    import_run(source, out)
elif format == "gguf":
    export_gguf(source, out, dtype)
else:
    export_run(source, out, dtype)
print(resident("VmHWM:") - before, "torch._dynamo" in sys.modules)
"""
needs_peak = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak of resident memory"
)


def measure_growth(source: Path, out: Path, format: str, dtype: str) -> int:
    """Return by how many bytes the memory of a process grows at most during an export or import."""
    command = [sys.executable, "-c", MEASURE, str(source), str(out), format, dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, has_compiler = done.stdout.split()
    assert has_compiler == "False", "torch's compiler takes 160 MB and 2 s"
    return int(grown)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose weights are a file of 200 MB."""
    spec = spec_of("dense", repeat=16, d_model=512, head_dim=64, d_ff=1376, vocab_size=512)
    place = tmp_path_factory.mktemp("large") / "run"
    best = place / "checkpoints" / "language" / "best"
    save_checkpoint(best, model_of(spec), Progress("language"), tokenizer_sha256="0" * 64, run="a run")
    (place / "tokenizer.json").write_text(tokenizer_of(spec.vocab_size).to_str(), encoding="utf-8")
    return place


@pytest.mark.slow
@needs_peak
@pytest.mark.parametrize(
    ("format", "dtype"),
    [("huggingface", "f32"), ("huggingface", "bf16"), *(("gguf", dtype) for dtype in ("f32", "f16", "bf16", "q8_0"))],
)
def test_an_export_takes_at_most_0_6_times_its_file(format: str, dtype: str, large: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out.gguf" if format == "gguf" else "out")
    grown = measure_growth(large, out, format, dtype)
    size = (out if format == "gguf" else out / "model.safetensors").stat().st_size
    assert grown <= 0.6 * size, f"{grown:,} bytes for a file of {size:,}"


@pytest.mark.slow
@needs_peak
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_an_import_takes_at_most_1_5_times_the_model_in_fp32(dtype: str, large: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    export_run(large, source, dtype)
    (source / "advanced_code_model.json").unlink()
    grown = measure_growth(source, tmp_path / "out", "ours", "")
    size = (tmp_path / "out" / "checkpoints" / "imported" / "last" / "model.safetensors").stat().st_size
    assert grown <= 1.5 * size, f"{grown:,} bytes for a file of {size:,}"


@pytest.mark.parametrize("case", BLOCKS)
def test_an_empty_model_has_the_shapes_of_a_model(case: str) -> None:
    model = model_of(spec_of(case))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert state_shapes(model.spec) == shapes
