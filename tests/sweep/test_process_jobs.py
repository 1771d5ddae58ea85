"""Jobs of several processes: what they are started with, and real sweeps of them, killed half way."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hydra import compose, initialize_config_dir

from src.cli.compose import compose_config, register_schema
from src.cli.validation import validate
from src.config.schema import CONF, LauncherConfig, SweepConfig, TrainConfig, UserError
from src.runs.resource_check import memory_needed
from src.runtime.atomic_files import read_json
from src.runtime.host import RankInfo, planned_ranks
from src.sweep import gpu_pool
from src.sweep.gpu_pool import GpuPool
from src.sweep.job_process import job_command, join_job
from src.sweep.job_resources import JobResources, find_resources, node_rank, slurm_overrides, torchrun_options
from src.sweep.job_store import Job, JobStore
from tests.contract.small import small_spec
from tests.integration import tiny
from tests.summaries import write_summary


def composed(*overrides: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", ["output_root=.", *overrides])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["launcher=joblib", "processes_per_job=3"], "training.global_batch_size=16: must be a multiple of the 3 proc"),
        (["launcher=joblib", "processes_per_job=2", "nodes_per_job=2"], "launcher.nodes_per_job=2: is for launcher=sl"),
        (["launcher=slurm", "processes_per_job=3", "nodes_per_job=2"], "launcher.processes_per_job=3: must be a mult"),
        (["launcher=slurm", "nodes_per_job=2"], "launcher.processes_per_job=1: must be a multiple of launcher.nodes_p"),
        (["launcher=ray", "processes_per_job=2"], "launcher.processes_per_job=2: a task of Ray is one process; use"),
        (["launcher=joblib", "processes_per_job=2", "gpus_per_job=1"], "launcher.gpus_per_job=1: each of the launcher"),
        (["launcher=joblib", "processes_per_job=2", "jobs_per_gpu=2"], "launcher.jobs_per_gpu=2: is for launcher=jobl"),
        (["launcher=joblib", "processes_per_job=2", "training.memory=lean"], "training.memory=lean: is for a single p"),
        (["launcher=slurm", "processes_per_job=2", "nodes_per_job=2", "sweep.retries=1"], "sweep.retries=1: not with "),
        (["launcher=slurm", "processes_per_job=2", "nodes_per_job=2", "sweep.fail_fast=true"], "sweep.fail_fast=True:"),
    ],
)  # fmt: skip
def test_settings_that_contradict_are_one_line(given: list[str], message: str) -> None:
    for extra in ("joblib", "submitit"):
        pytest.importorskip(f"hydra_plugins.hydra_{extra}_launcher")
    if "launcher=ray" in given:
        pytest.importorskip("ray")
    keys = [item if "." in item or item.startswith("launcher=") else f"launcher.{item}" for item in given]
    with pytest.raises(UserError) as error:
        validate(composed(*keys, "training.micro_batch_size=2", "training.global_batch_size=16"))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_mps_has_no_jobs_of_several_processes() -> None:
    config = composed("launcher.processes_per_job=2", "training.micro_batch_size=2", "runtime=mps")
    with pytest.raises(
        UserError, match=r"^launcher\.processes_per_job=2: several cannot share an Apple GPU; add runtime=cpu"
    ):
        validate(config)


def test_plans_count_the_processes_of_the_jobs() -> None:
    """The memory of a sharded job is planned for the processes that it will have."""
    assert planned_ranks(LauncherConfig("slurm", processes_per_job=8, nodes_per_job=2)) == RankInfo(0, 8, 0, 4)
    sharded = composed("launcher.processes_per_job=4", "runtime.parallel=shard", "training.micro_batch_size=1")
    spec = small_spec("hybrid")
    single = composed("runtime.parallel=shard", "training.micro_batch_size=1")
    assert memory_needed(sharded, spec).optimizer == memory_needed(single, spec).optimizer // 4


def test_what_a_job_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    launcher = LauncherConfig("joblib", n_jobs=2, processes_per_job=4)
    found = find_resources(launcher, "cpu", tmp_path)
    assert found == JobResources(2, None, ("--standalone", "--nproc-per-node", "4"))
    job = JobResources(), Job("r0", "../../runs/r0", ["seed=0"], "dense", "nano", "modern", "language", "local", 0)
    assert job_command(job[1], job[0]) == [sys.executable, "-m", "src.train", "seed=0"]
    command = job_command(job[1], found)
    assert command[1:6] == ["-m", "src.runtime.torchrun", "--standalone", "--nproc-per-node", "4"]
    assert command[-3:] == ["-m", "src.train", "seed=0"]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    monkeypatch.setattr(gpu_pool, "NVIDIA_DRIVER", tmp_path)
    for name in ("joblib", "serial"):
        pool = find_resources(LauncherConfig(name, processes_per_job=4), "auto", tmp_path).pool
        assert pool == GpuPool(tmp_path, [str(index) for index in range(8)], 4)
    with pytest.raises(UserError, match=r"^launcher\.processes_per_job=9: this machine has 8 GPUs .*or runtime=cpu$"):
        find_resources(LauncherConfig("serial", processes_per_job=9), "auto", tmp_path)


def test_the_hosts_of_a_slurm_job_meet_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    given = {"ID": "18070", "NODELIST": "node[07-08]", "NUM_NODES": "2"}
    for name, value in {f"SLURM_JOB_{name}": value for name, value in given.items()}.items():
        monkeypatch.setenv(name, value)
    launcher = LauncherConfig("slurm", gpus_per_job=8, processes_per_job=8, nodes_per_job=2)
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        assert torchrun_options(launcher) == (
            *("--nnodes", "2", "--node-rank", rank, "--nproc-per-node", "4"),
            *("--master-addr", "node07", "--master-port", "12070"),
        )
        assert node_rank(launcher) == int(rank)
    assert slurm_overrides(launcher) == ["hydra.launcher.gpus_per_node=4"]
    one_host = LauncherConfig("slurm", gpus_per_job=8, processes_per_job=8)
    assert (slurm_overrides(one_host), node_rank(one_host)) == ([], 0)


def test_slurm_is_asked_for_the_hosts_of_a_job() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register_schema(TrainConfig, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["launcher=slurm", "launcher.nodes_per_job=2", "launcher.processes_per_job=2"]
        config = compose("train", given, return_hydra_config=True)
        assert (config.hydra.launcher.nodes, config.hydra.launcher.tasks_per_node) == (2, 1)


def test_a_further_host_does_nothing_for_a_job_that_is_done(tmp_path: Path) -> None:
    job = Job("r0", "../../runs/r0", ["seed=0"], "dense", "nano", "modern", "language", "local", 0)
    store = JobStore(tmp_path / "sweeps" / "s")
    store.open("s", [job])
    write_summary(store.run_dir(job))
    assert join_job(store, job, SweepConfig(), False, JobResources(torchrun=("--no-such-option",))) == 0
    assert store.entry(job) is None


SHARDED = ("launcher=joblib", "launcher.n_jobs=2", "launcher.processes_per_job=2", "runtime.parallel=shard", "seed=0,1",
           "training.max_steps=40", "training.checkpoint_every=5", "training.eval_every=20",
           "evaluation.enabled=false")  # fmt: skip


def start_sweep(data: Path, root: Path) -> "subprocess.Popen[str]":
    return tiny.start(["-m", *tiny.command_line(data, root, *SHARDED)], stderr=subprocess.STDOUT)


def finish_sweep(sweep: "subprocess.Popen[str]") -> str:
    out, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, out
    return out


@pytest.mark.slow
def test_a_sweep_of_sharded_jobs_that_is_killed_gives_the_same_result(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    out = finish_sweep(start_sweep(data, whole))
    assert out.count("Device: CPU, precision fp32, 2 processes with a part of the model each, 1 CPU thread") == 2
    records = [read_json(path) for path in whole.glob("sweeps/*/jobs/*.json")]
    assert [(record["status"], record["exit_code"]) for record in records] == [("done", 0)] * 2
    contracts = [read_json(path)["contract"] for path in whole.glob("runs/*/summary.json")]
    assert [contract["processes"] for contract in contracts] == [2, 2]

    sweep = start_sweep(data, broken)
    tiny.wait_until(lambda: [*broken.glob("runs/*/checkpoints/language/last/meta.json")], sweep, 300)
    for process in [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]:
        process.kill()
    sweep.communicate()
    assert "Resuming stage language after step" in finish_sweep(start_sweep(data, broken))
    assert tiny.hash_weights(broken) == tiny.hash_weights(whole)


@pytest.mark.slow
def test_a_killed_process_fails_its_job_and_a_stopped_sweep_saves(data: Path, tmp_path: Path) -> None:
    """The process that is killed is named, not torchrun, which ends with it."""
    arguments = [item for item in SHARDED if not item.startswith(("launcher=", "launcher.n_jobs", "seed="))]
    command = ["-m", *tiny.command_line(data, tmp_path, *arguments, "training.max_steps=2000", "seed=0")]
    sweep = tiny.start(command, stderr=subprocess.STDOUT)
    tiny.wait_until(lambda: [*tmp_path.glob("runs/*/checkpoints/language/last/meta.json")], sweep, 300)
    (torchrun,) = [each for each in psutil.Process(sweep.pid).children() if "src.runtime.torchrun" in each.cmdline()]
    ranks = {each.environ().get("RANK"): each for each in torchrun.children()}
    ranks["1"].kill()
    out, _ = sweep.communicate(timeout=300)
    (record,) = [read_json(path) for path in tmp_path.glob("sweeps/*/jobs/*.json")]
    assert (sweep.returncode, record["status"], record["error"]) == (
        1,
        "failed",
        "killed by SIGKILL (out of memory?)",
    ), out

    sweep = tiny.start(command, stderr=subprocess.STDOUT)
    (log,) = tmp_path.glob("runs/*/train.log")
    tiny.wait_until(lambda: log.read_text().count("Resuming stage language after step") == 1, sweep, 300)
    sweep.terminate()
    out, _ = sweep.communicate(timeout=300)
    (record,) = [read_json(path) for path in tmp_path.glob("sweeps/*/jobs/*.json")]
    assert (sweep.returncode, record["status"], record["error"]) == (143, "interrupted", "stopped by SIGTERM"), out
    assert read_json(tiny.only_run(tmp_path) / "summary.json")["status"] == "interrupted"
