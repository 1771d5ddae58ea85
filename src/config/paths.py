"""The folders of this repository that settings are read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds src, conf and experiments."""
CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
