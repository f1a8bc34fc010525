"""A real Slurm on this machine, and the command as its jobs find it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from tests.support.slurm import Slurm, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A Slurm of one node; skipped where none can be started."""
    if why := why_not():
        pytest.skip(why)
    with Slurm() as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm, seaweed: DevServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Slurm]:
    """The same in the environment of this test, which sbatch hands on to jobs: server, credentials, and our command."""
    before = dict(cluster.environment)
    cluster.environment |= seaweed.environment
    cluster.environment["PATH"] = f"{Path(sys.executable).parent}:{before['PATH']}"
    cluster.environment["HOME"] = str(tmp_path)
    cluster.environment["LOGNAME"] = "tests"
    for name in cluster.environment.keys() - os.environ.keys() | {"PATH", "HOME"}:
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.chdir(tmp_path)
    yield cluster
    cluster.environment = before
