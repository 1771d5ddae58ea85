"""Start a Slurm cluster of one host for the tests: real daemons in a temporary folder that are stopped afterwards."""

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")

# Without accounting, submitit waits forever for a job that ends without a result: this answers with scontrol's state.
SACCT = r"""#!/bin/bash
echo "JobID|State|NodeList"
scontrol -o show job 2>/dev/null | while read -r line; do
  id=$(sed -n 's/.*JobId=\([0-9]*\).*/\1/p' <<< "$line")
  array=$(sed -n 's/.*ArrayJobId=\([0-9]*\).*/\1/p' <<< "$line")
  task=$(sed -n 's/.*ArrayTaskId=\([0-9]*\) .*/\1/p' <<< "$line")
  state=$(sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' <<< "$line")
  [ -n "$array" ] && [ -n "$task" ] && id="${array}_${task}"
  echo "$id|$state|localhost"
done
"""


def skip_reason() -> str | None:
    """Return why Slurm cannot be started here, or None. Installs it where possible."""
    if os.geteuid() != 0:
        return "only root can start a Slurm of its own"
    if all(map(shutil.which, NEEDED)):
        return None
    if shutil.which("apt-get") is None:
        return "no Slurm here, and no apt-get to install it"
    command = ["apt-get", "install", "-y", "-qq", "slurm-wlm", "munge"]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=300, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    )
    return None if done.returncode == 0 and all(map(shutil.which, NEEDED)) else "Slurm could not be installed"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start munge, slurmctld and slurmd; yield the environment in which sbatch and the other commands find them."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    settings = {
        "ClusterName": "tests", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": "root", "AuthType": "auth/munge",
        "SlurmctldPort": free_port(), "SlurmdPort": free_port(), "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none", "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core",
        "ReturnToService": 2, "MinJobAge": 3600, "KillWait": 20, "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool", "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid", "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log", "MpiDefault": "none", "JobRequeue": 1,
    }  # fmt: skip
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines += [f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN"]
    lines += [f"PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP"]
    config.write_text("\n".join(lines) + "\n")
    sacct = folder / "bin" / "sacct"
    sacct.write_text(SACCT)
    sacct.chmod(sacct.stat().st_mode | stat.S_IEXEC)
    environment = dict(os.environ, SLURM_CONF=str(config), PATH=f"{folder / 'bin'}:{os.environ['PATH']}")

    def call(*command: str) -> None:
        subprocess.run(command, check=True, env=environment, timeout=60, capture_output=True)

    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    started_munge = not Path("/run/munge/munge.socket.2").exists()
    if started_munge:
        call("runuser", "-u", "munge", "--", "munged", "--force")
    try:
        call("slurmctld", "-f", str(config))
        call("slurmd", "-f", str(config))
        end = time.monotonic() + 30
        while b"idle" not in subprocess.run(["sinfo", "-h"], capture_output=True, env=environment, check=False).stdout:
            assert time.monotonic() < end, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False, timeout=30)
        for name in ("slurmd", "slurmctld"):
            file = folder / f"{name}.pid"
            if file.exists():
                subprocess.run(["kill", file.read_text().strip()], check=False)
        if started_munge:
            subprocess.run(["pkill", "-x", "munged"], check=False)
