"""A SLURM cluster of one node on this machine, from the programs that `make slurm` unpacks."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.helpers.commands import ROOT

PROGRAMS = ROOT / "build" / "slurm" / "usr"

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4096
PartitionName=main Nodes={host} Default=YES State=UP
"""


class Cluster:
    """A running cluster. `environment` leads its programs, and those of submitit, to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, program: str, *arguments: str) -> str:
        """Run one of SLURM's programs, and return what it prints."""
        command = [str(PROGRAMS / "bin" / program), *arguments]
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state: PENDING, RUNNING, COMPLETING and so on; COMPLETED if it is no longer listed."""
        return self.run("squeue", "--noheader", "--format=%T", f"--jobs={job}") or "COMPLETED"

    def signal(self, job: str, signal: str) -> None:
        """Send a signal as SLURM does before the time limit, wait until the job is requeued, and let it start again.

        SLURM would wait for two minutes.
        """
        self.run("scancel", f"--signal={signal}", job)
        self.wait(job, "PENDING")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait(self, job: str, state: str, timeout: float = 240) -> None:
        deadline = time.monotonic() + timeout
        while (found := self.state(job)) != state:
            assert time.monotonic() < deadline, f"job {job} is {found}, not {state}"
            time.sleep(0.2)


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """Run a cluster whose files are in `directory`. It ends with the block."""
    libraries = next(PROGRAMS.glob("lib/*/slurm-wlm"))
    directory.mkdir(exist_ok=True)
    for name in ("state", "spool"):
        (directory / name).mkdir()
    configuration = directory / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            controller_port=_free_port(),
            node_port=_free_port(),
            user=getpass.getuser(),
            plugins=libraries,
            directory=directory,
        )
    )
    environment = {
        "SLURM_CONF": str(configuration),
        "LD_LIBRARY_PATH": f"{libraries.parent}:{libraries}",
        "PATH": f"{PROGRAMS / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    stepd = str(PROGRAMS / "sbin" / "slurmstepd-wlm")
    with ExitStack() as stack:
        for arguments in (["slurmctld-wlm", "-D"], ["slurmd-wlm", "-D", "-d", stepd]):
            stack.enter_context(_background(arguments, environment, directory))
        cluster = Cluster(environment)
        deadline = time.monotonic() + 60
        while not _is_idle(cluster):
            assert time.monotonic() < deadline, (directory / "slurmctld-wlm.log").read_text()
            time.sleep(0.2)
        try:
            yield cluster
        finally:
            cluster.run("scancel", f"--user={getpass.getuser()}")  # jobs would outlive their cluster


def _is_idle(cluster: Cluster) -> bool:
    try:
        return cluster.run("sinfo", "--noheader", "--format=%T") == "idle"
    except AssertionError:  # the controller does not answer yet
        return False


@contextmanager
def _background(arguments: list[str], environment: dict[str, str], directory: Path) -> Iterator[None]:
    command = [str(PROGRAMS / "sbin" / arguments[0]), *arguments[1:]]
    with (directory / f"{arguments[0]}.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
