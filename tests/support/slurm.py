"""A Slurm of one node on this machine: munged, slurmctld and slurmd, without systemd, accounting or cgroups."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.processes import run

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10
NODES_CPUS = 8
"""More than the machine may have, so that all tasks of a small array run at once."""


def why_not() -> str:
    """Why no Slurm can be started here, or ""."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no Slurm on this machine ({', '.join(missing)} not found); as root on Debian: make slurm"
    return "" if os.geteuid() == 0 else "a Slurm of the tests' own needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Slurm:
    """Starts on entering, in a directory and on ports of its own; on leaving, all jobs are cancelled, and all daemons
    ended. The daemons end as well where this process is killed; jobs go on to their own end then."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._place = Path()
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        with self._stack:
            # Slurm's paths are short, and others' to read: a socket's name has at most 107 bytes.
            made = tempfile.TemporaryDirectory(prefix="asyncsink-slurm-", ignore_cleanup_errors=True)
            self._place = Path(self._stack.enter_context(made))
            self._place.chmod(0o755)
            self._configure()
            self._stack.callback(self._stop)
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, *words: object, **how: Any) -> str:
        """What a command of Slurm, or one that calls some, prints. It must succeed."""
        how["env"] = self.environment | how.get("env", {})
        done = run(words, **how)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout.strip()

    def states(self, job: str) -> dict[str, str]:
        """The state of each job, or task of an array, that `squeue -j` finds; by "12" or "12_3"."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def pid(self, task: str) -> int:
        """Of the process of a job's script, or a task's."""
        number = self.run("squeue", "-h", "-r", "-j", task, "-o", "%A")
        return int(self.run("scontrol", "listpids", number).splitlines()[1].split()[0])

    def wait(self, job: str) -> str:
        """The state in which a job has ended."""
        while True:
            (state,) = self.states(job).values()
            if state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
                return state
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self._place.glob("*.log")))

    def _configure(self) -> None:
        place, host = self._place, socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (place / name).mkdir()
        key = place / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(64))
        control, node = _free_ports(2)
        # cred_expire is also how long a requeued job waits: two minutes by default.
        lines = f"""
            ClusterName=tests
            SlurmctldHost={host}(127.0.0.1)
            SlurmUser=root
            SlurmdUser=root
            AuthInfo=socket={place}/munge.sock,cred_expire=5
            StateSaveLocation={place}/state
            SlurmdSpoolDir={place}/spool
            SlurmctldPidFile={place}/slurmctld.pid
            SlurmdPidFile={place}/slurmd.pid
            SlurmctldPort={control}
            SlurmdPort={node}
            SlurmdParameters=config_overrides
            ProctrackType=proctrack/linuxproc
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
            NodeName={host} NodeAddr=127.0.0.1 CPUs={NODES_CPUS} RealMemory=64000 State=UNKNOWN
            PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
        """
        configuration = place / "slurm.conf"
        configuration.write_text("\n".join(line.strip() for line in lines.strip().splitlines()) + "\n")
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(configuration)}

    def _start(self) -> None:
        place = self._place
        munge = ("--foreground", "--force", f"--socket={place}/munge.sock", f"--key-file={place}/munge.key")
        files = (f"--pid-file={place}/munged.pid", f"--log-file={place}/munge.log", f"--seed-file={place}/munge.seed")
        self._daemon("munged", *munge, *files)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        end = time.monotonic() + SECONDS_TO_START
        while run(["sinfo", "-h", "-o", "%T"], env=self.environment).stdout.strip() != "idle":
            gone = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            assert not gone, f"{gone} ended: {self.logs()}"
            assert time.monotonic() < end, f"Slurm does not come up: {self.logs()}"
            time.sleep(0.1)

    def _daemon(self, *words: str) -> None:
        with open(self._place / f"{words[0]}.log", "wb") as log:
            # In a session of its own: Ctrl-C in the terminal must not end it before its jobs.
            started = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(started)

    def _stop(self) -> None:
        try:
            if len(self._daemons) == len(("munged", "slurmctld", "slurmd")):
                self._cancel_all()
        finally:
            for daemon in reversed(self._daemons):
                _end(daemon)

    def _cancel_all(self) -> None:
        """Best effort: the daemons may be what has failed."""
        run(["scancel", "--user=root"], env=self.environment)
        end = time.monotonic() + SECONDS_TO_STOP
        while run(["squeue", "-h"], env=self.environment).stdout.strip() and time.monotonic() < end:
            time.sleep(0.1)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_ports(count: int) -> Iterable[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
