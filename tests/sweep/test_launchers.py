"""Sweeps under real schedulers: Slurm with preempted and requeued jobs, and Ray."""

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.sweep import slurm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if reason := slurm.skip_reason():
        pytest.skip(reason)
    with slurm.running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def start_sweep(data: Path, root: Path, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    settings = ("launcher=slurm", "hydra.launcher.cpus_per_task=1", "evaluation.enabled=false", *more)
    return tiny.start(["-m", *tiny.command_line(data, root, *settings)], env=environment, stderr=subprocess.STDOUT)


def train_uninterrupted(data: Path, root: Path, *more: str) -> dict[str, str]:
    assert tiny.run(data, root, "evaluation.enabled=false", *more) == 0
    return tiny.hash_weights(root)


def read_logs(root: Path) -> str:
    return "".join(path.read_text() for path in root.glob("runs/*/train.log"))


def read_statuses(root: Path) -> list[str]:
    (folder,) = (root / "sweeps").iterdir()
    with (folder / "report" / "summary.csv").open(newline="") as handle:
        return [row["status"] for row in csv.DictReader(handle)]


def test_slurm_runs_the_jobs(data: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    sweep = start_sweep(data, tmp_path, cluster, "seed=0,1", "training.max_steps=1")
    out, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out
    assert read_statuses(tmp_path) == ["done", "done"]
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert list((folder / ".submitit").rglob("*_log.out")), "where Slurm's own logs are"


def test_slurm_runs_jobs_on_several_hosts(data: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    """Two tasks on one host stand for two hosts: each starts its process by torchrun, and they meet at the first."""
    hosts = ("hydra.launcher.nodes=1", "hydra.launcher.tasks_per_node=2", "launcher.nodes_per_job=2")
    more = (*hosts, "launcher.processes_per_job=2", "runtime.parallel=shard", "training.max_steps=4")
    sweep = start_sweep(data, tmp_path, cluster, "seed=0", *more)
    out, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, out
    assert read_statuses(tmp_path) == ["done"]
    (log,) = tmp_path.glob("sweeps/*/jobs/*.log")
    assert log.read_text().count("2 processes with a part of the model each") == 1
    contract = read_json(next(tmp_path.glob("runs/*/summary.json")))["contract"]
    assert (contract["processes"], contract["runtime.parallel"]) == (2, "shard")


LONG = ("training.max_steps=1500", "training.eval_every=500", "training.checkpoint_every=100", "training.log_every=50")


def test_a_requeued_slurm_job_gives_the_same_result(data: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    """`scontrol requeue` acts like preemption: SIGTERM, a few seconds to save, and a restart."""
    sweep = start_sweep(data, tmp_path / "slurm", cluster, "seed=0", *LONG)
    try:
        tiny.wait_until(lambda: "Stage language" in read_logs(tmp_path / "slurm"), sweep)
        time.sleep(1)
        queue = subprocess.run(
            ["squeue", "-h", "-t", "R", "-o", "%A"], capture_output=True, text=True, env=cluster, check=True
        )
        (job,) = queue.stdout.split()
        subprocess.run(["scontrol", "requeue", job], env=cluster, check=True)
        out, _ = sweep.communicate(timeout=400)
    finally:
        sweep.kill()
        sweep.communicate()
    assert sweep.returncode == 0, out
    assert "Resuming stage language after step" in read_logs(tmp_path / "slurm")
    assert tiny.hash_weights(tmp_path / "slurm") == train_uninterrupted(data, tmp_path / "alone", *LONG)


def test_a_slurm_job_at_its_time_limit_is_requeued_and_resumes(
    data: Path, tmp_path: Path, cluster: dict[str, str]
) -> None:
    """Slurm sends SIGUSR2 before the time limit of one minute: the run saves, and submitit requeues the job."""
    long = ("training.max_steps=1000000", "training.max_tokens=10_000_000", "training.checkpoint_every=200",
            "training.eval_every=20000", "training.log_every=1000")  # fmt: skip
    times = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40", "hydra.launcher.max_num_timeout=3")
    sweep = start_sweep(data, tmp_path, cluster, "seed=0", *times, *long)
    try:
        tiny.wait_until(lambda: "Resuming stage language after step" in read_logs(tmp_path), sweep, seconds=240)
    finally:
        sweep.kill()
        sweep.communicate()
        subprocess.run(["scancel", "--user=root"], env=cluster, check=True)
    step = int(re.findall(r"Resuming stage language after step (\d+)", read_logs(tmp_path))[0])
    assert step > 0


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("ray")
    tool = str(Path(sys.executable).with_name("ray"))
    port, folder = slurm.free_port(), tmp_path_factory.mktemp("r")
    flags = f"--head --port={port} --num-cpus=2 --include-dashboard=false --object-store-memory=100000000".split()
    command = [tool, "start", *flags, f"--temp-dir={folder}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        subprocess.run([tool, "stop", "--force"], check=False, capture_output=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_ray_runs_the_jobs_of_a_sweep(data: Path, tmp_path: Path, ray_address: str) -> None:
    settings = ("launcher=ray", f"launcher.address={ray_address}", "evaluation.enabled=false", "seed=0,1,2")
    command = ["-m", *tiny.command_line(data, tmp_path, *settings)]
    for _ in range(2):  # the second sweep has nothing left to do
        sweep = tiny.start(command, stderr=subprocess.STDOUT)
        out, _ = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, out
    assert read_statuses(tmp_path) == ["done"] * 3
    contract = read_json(next(tmp_path.glob("runs/*/summary.json")))["contract"]
    assert contract["host_shared"] is True


def test_a_missing_ray_cluster_is_a_one_line_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    settings = ("launcher=ray", f"launcher.address=127.0.0.1:{slurm.free_port()}", "seed=0,1")
    sweep = tiny.start(["-m", *tiny.command_line(data, tmp_path, *settings)])
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 2 and "no Ray cluster there" in err.splitlines()[-1]
