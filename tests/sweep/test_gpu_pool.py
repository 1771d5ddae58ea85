"""Jobs get GPUs of their own; the GPUs are names in CUDA_VISIBLE_DEVICES, so that no GPU is needed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.cli.compose import compose_config, register_schema
from src.cli.validation import validate
from src.config.schema import CONF, LauncherConfig, TrainConfig, UserError
from src.runtime import host
from src.runtime.atomic_files import read_json
from src.sweep import gpu_pool
from src.sweep.gpu_pool import GpuPool, gpus_wanted, open_gpu_pool
from src.sweep.job_process import job_environment
from src.sweep.ray_launcher import resources
from tests.integration import tiny


def test_each_job_has_its_own_gpu_until_it_ends(tmp_path: Path) -> None:
    pool = GpuPool(tmp_path, ["4", "7"])
    with pool.reserve() as first, ThreadPoolExecutor(1) as thread:
        with pool.reserve() as second:
            assert [*first, *second] == ["4", "7"]
            waiting = thread.submit(pool.reserve().__enter__)
            assert not waiting.done()
        assert waiting.result(timeout=60) == ["7"]


def test_jobs_share_gpus_after_each_has_one(tmp_path: Path) -> None:
    pool = GpuPool(tmp_path, ["0", "1"], jobs_per_gpu=2)
    with ExitStack() as jobs:
        assert [jobs.enter_context(pool.reserve()) for _ in range(4)] == [["0"], ["1"], ["0"], ["1"]]


def test_a_job_with_two_gpus_has_different_ones(tmp_path: Path) -> None:
    with GpuPool(tmp_path, ["0", "1", "2"], gpus_per_job=2).reserve() as held:
        assert held == ["0", "1"]


def test_a_killed_job_frees_its_gpu(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom src.sweep.gpu_pool import GpuPool\n"
        "with GpuPool(Path(sys.argv[1]), ['0']).reserve():\n    print('held', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with GpuPool(tmp_path, ["0"]).reserve() as held:
        assert held == ["0"]


@pytest.mark.parametrize(
    ("given", "device", "is_there", "expected"),
    [(None, "auto", True, 1), (None, "cuda", True, 1), (None, "auto", False, 0), (None, "cpu", True, 0),
     (0, "cuda", True, 0), (2, "auto", True, 2)],
)  # fmt: skip
def test_gpus_by_default(given: int | None, device: str, is_there: bool, expected: int) -> None:
    assert gpus_wanted(LauncherConfig("joblib", gpus_per_job=given), device, is_there) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,1", ["0", "1"]), ("GPU-8f1, GPU-2", ["GPU-8f1", "GPU-2"]), ("", []), ("-1", []), (None, ["0", "1", "2"])],
)
def test_visible_gpus(
    visible: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:41:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    monkeypatch.setattr(host, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert host.gpu_names() == expected


def test_the_pool_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr(gpu_pool, "NVIDIA_DRIVER", tmp_path)
    assert open_gpu_pool(LauncherConfig("joblib"), "auto", tmp_path) == GpuPool(tmp_path, ["2", "3"])
    assert open_gpu_pool(LauncherConfig("joblib"), "cpu", tmp_path) is None
    assert open_gpu_pool(LauncherConfig("serial"), "auto", tmp_path) is None
    with pytest.raises(UserError, match=r"launcher\.gpus_per_job=3: this machine has 2"):
        open_gpu_pool(LauncherConfig("joblib", gpus_per_job=3), "auto", tmp_path)
    monkeypatch.setattr(gpu_pool, "NVIDIA_DRIVER", tmp_path / "none")
    assert open_gpu_pool(LauncherConfig("joblib"), "auto", tmp_path) is None


@pytest.mark.parametrize(
    "given",
    ["launcher=serial launcher.gpus_per_job=1", "launcher=slurm launcher.jobs_per_gpu=2",
     "launcher=joblib launcher.gpus_per_job=2 launcher.jobs_per_gpu=2"],
)  # fmt: skip
def test_settings_without_effect_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"^launcher\.(gpus_per_job|jobs_per_gpu)=.*leave it out"):
        validate(composed("output_root=.", *given.split()))


def test_the_environment_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert job_environment(None, None)["CUDA_VISIBLE_DEVICES"] == "0,1"
    found = job_environment(3, ["1"])
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"], found[host.PROCESS_THREADS]) == ("1", "3", "3")


def composed(*overrides: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", overrides)


def test_what_ray_reserves() -> None:
    assert resources(composed("launcher=ray"), True) == {"num_cpus": 1, "num_gpus": 1}
    assert resources(composed("launcher=ray"), False)["num_gpus"] == 0
    assert resources(composed("launcher=ray", "launcher.jobs_per_gpu=4"), True)["num_gpus"] == 0.25
    assert resources(composed("launcher=ray", "launcher.gpus_per_job=2"), False)["num_gpus"] == 2


@pytest.mark.parametrize(("more", "expected"), [([], None), (["launcher.gpus_per_job=2"], 2)])
def test_what_slurm_is_asked_for(more: list[str], expected: int | None) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    register_schema(TrainConfig, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["launcher=slurm", *more], return_hydra_config=True)
        assert config.hydra.launcher.gpus_per_node == expected


@pytest.mark.slow
def test_joblib_gives_each_job_a_gpu(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    settings = ("launcher=joblib", "launcher.n_jobs=2", "launcher.gpus_per_job=1", "seed=0,1", "training.max_steps=30",
                "evaluation.enabled=false")  # fmt: skip
    command = ["-m", *tiny.command_line(data, tmp_path, *settings)]
    sweep = tiny.start(command, env=dict(os.environ, CUDA_VISIBLE_DEVICES="5,6"), stderr=subprocess.STDOUT)
    out, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, out
    records = [read_json(path) for path in tmp_path.glob("sweeps/*/jobs/*.json")]
    assert [record["status"] for record in records] == ["done", "done"]
    assert sorted(record["gpus"] for record in records) == [["5"], ["6"]]
