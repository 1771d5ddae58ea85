"""The folders of this repository that settings are read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds src, conf and experiments."""
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"


def experiment_files(folder: Path | None = None) -> dict[str, Path]:
    """Return the experiments by name; those of a subfolder have it in their name, as in `published/mqar`."""
    root = folder or EXPERIMENTS
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
