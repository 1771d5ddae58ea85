"""Synthetic runs and sweeps in the format of the run directory; no model was trained for these numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

BYTES_PER_TOKEN = 3.2
REFERENCES = {
    "language": {"uniform_loss": math.log(4096), "unigram_loss": 6.1, "floor_bits_per_byte": 0.62},
    "code": {"uniform_loss": math.log(4096), "unigram_loss": 5.7, "floor_bits_per_byte": None},
}
LEVELS = {"dense": 2.2, "mamba": 2.3, "moe": 2.1, "hybrid": 2.15}
PARAMETERS = {"dense": 1_000_000, "mamba": 1_004_000, "moe": 1_001_000, "hybrid": 998_000}
SPEEDS = {"dense": 9000.0, "mamba": 4000.0, "moe": 5000.0, "hybrid": 6000.0}
STEPS, TOKENS_PER_STEP, FLOPS_PER_TOKEN = 150, 2048, 6e6


class SweepBuilder:
    """Writes runs below `root`/runs and a sweep below `root`/sweeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sweep = root / "sweeps" / "demo-12345678"
        self.jobs: list[dict[str, Any]] = []

    def add(self, architecture: str, seed: int = 0, size: str = "nano", status: str = "done", **changes: Any) -> Path:
        """Add a finished run and its job; `contract`, `stages`, `level`, `error` and `summary` (a dict) change it."""
        run = changes.get("run", f"{architecture}-{size}-full-s{seed}-0000abcd")
        run_dir = self.root / "runs" / run
        stages = changes.get("stages", ("language", "code"))
        level = changes.get("level", LEVELS.get(architecture, 2.5)) + 0.01 * seed
        summary = self._summary(run, architecture, seed, size, status, stages, level)
        summary["error"] = changes.get("error")
        summary["contract"].update(changes.get("contract", {}))
        summary.update(changes.get("summary", {}))
        run_dir.mkdir(parents=True)
        (run_dir / "summary.json").write_text(json.dumps(summary))
        (run_dir / "metrics.jsonl").write_text("".join(self._metrics(stages, level, SPEEDS.get(architecture, 3000.0))))
        (run_dir / "samples").mkdir()
        for stage, prompt in {"language": "Once upon a time", "code": "#!/bin/bash"}.items():
            if stage in stages:
                sample = {"prompt": prompt, "text": f" <b>{architecture}</b> & friends ``` of seed {seed}"}
                (run_dir / "samples" / f"{stage}.json").write_text(json.dumps([sample]))
        self.plan(run, architecture, seed, size)
        self.job_record(run, status, error=summary["error"])
        return run_dir

    def plan(self, run: str, architecture: str, seed: int = 0, size: str = "nano", **more: Any) -> None:
        """Add a job to the sweep; without a run or a job record it has never started."""
        job = {"run": run, "run_dir": f"../../runs/{run}", "overrides": [f"architecture={architecture}"]}
        job |= {"architecture": architecture, "size": size, "recipe": "modern", "stage": "full", "data": "embedded"}
        self.jobs.append({**job, "seed": seed, **more})
        self.sweep.mkdir(parents=True, exist_ok=True)
        sweep = {"format_version": 1, "name": "demo", "jobs": self.jobs}
        (self.sweep / "sweep.json").write_text(json.dumps(sweep))

    def job_record(self, run: str, status: str, error: str | None = None) -> None:
        """Write the job record of the parent process."""
        (self.sweep / "jobs").mkdir(exist_ok=True)
        entry = {"status": status, "exit_code": 0 if status == "done" else 1, "error": error}
        (self.sweep / "jobs" / f"{run}.json").write_text(json.dumps(entry))

    def _summary(
        self, run: str, architecture: str, seed: int, size: str, status: str, stages: tuple[str, ...], level: float
    ) -> dict[str, Any]:
        speed, tokens = SPEEDS.get(architecture, 3000.0), STEPS * TOKENS_PER_STEP
        results = {
            stage: {
                "corpus": stage, "status": "done", "steps": STEPS, "tokens": tokens,
                "train_flops": tokens * FLOPS_PER_TOKEN, "val_loss": level - index * 0.2,
                "val_bits_per_byte": (level - index * 0.2) / math.log(2) / BYTES_PER_TOKEN,
                "best_val_loss": level - index * 0.2, "tokens_per_second": speed, "peak_memory_bytes": 700_000_000,
                "wall_time_s": tokens / speed, "skipped_steps": 0,
                "references": {**REFERENCES.get(stage, REFERENCES["code"]), "bytes_per_token": BYTES_PER_TOKEN},
            }
            for index, stage in enumerate(stages)
        }  # fmt: skip
        last = results[stages[-1]] if stages else {}
        final = {key: last.get(key) for key in ("val_loss", "val_bits_per_byte", "tokens_per_second")}
        final["peak_memory_bytes"] = last.get("peak_memory_bytes")
        final |= {key: sum(results[stage][key] for stage in stages) for key in ("tokens", "train_flops", "wall_time_s")}
        active = PARAMETERS.get(architecture, 1_000_000)
        accounting = {"total_params": active + 1_048_576, "active_params": active + 1_048_576}
        accounting |= {"embedding_params": 1_048_576, "non_embedding_params": active}
        accounting |= {"active_non_embedding_params": active, "train_flops_per_token": FLOPS_PER_TOKEN}
        contract = {"size": size, "match": "active", "recipe": "modern", "tokenizer_hash": "ab" * 32, "seq_len": 128}
        contract |= {"data_hash": "cd" * 32, "stages": "language 307200, code 307200", "init_from": None}
        contract |= {"git_commit": "ef" * 20, "device": "cpu", "threads": 2, "learning_rate_search": "none"}
        return {
            "format_version": 1, "run": run, "status": status, "error": None, "architecture": architecture,
            "size": size, "recipe": "modern", "stage": "full", "data": "embedded", "seed": seed, "match": "active",
            "match_residual": 0.004, "solved": {"n_blocks": 10, "d_state": 64}, "accounting": accounting,
            "contract": contract, "stages": results, "final": final if status == "done" else None,
            "environment": {"device": "cpu", "threads": 2, "precision": "fp32", "torch": "2.13.0", "git_commit": "ef"},
        }  # fmt: skip

    def _metrics(self, stages: tuple[str, ...], level: float, speed: float) -> list[str]:
        lines: list[str] = []
        for stage in stages:
            start = {"stage": stage, "step": 0, "tokens": 0, "flops": 0.0, "wall_time_s": 0.0}
            lines.append(json.dumps({**start, "val/loss": math.log(4096), "val/bits_per_byte": 3.75}) + "\n")
            for step in range(1, STEPS + 1):
                tokens = step * TOKENS_PER_STEP
                loss = level + 6 * math.exp(-step / 25) + 0.05 * math.sin(step * level)
                row = {"stage": stage, "step": step, "tokens": tokens, "flops": tokens * FLOPS_PER_TOKEN}
                row |= {"wall_time_s": tokens / speed, "train/loss": loss, "train/learning_rate": 1e-3}
                if step % 15 == 0:
                    row |= {"val/loss": level + 6 * math.exp(-step / 25), "val/bits_per_byte": loss / math.log(2) / 3.2}
                lines.append(json.dumps(row) + "\n")
        return lines


@pytest.fixture
def builder(tmp_path: Path) -> SweepBuilder:
    return SweepBuilder(tmp_path / "outputs")


@pytest.fixture
def four(builder: SweepBuilder) -> SweepBuilder:
    """A finished sweep of four architectures with one seed."""
    for architecture in LEVELS:
        builder.add(architecture)
    return builder
