"""`asyncsink export --dask`, and the examples of the guide's section about Dask."""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from distributed import Client, LocalCluster

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from tests.support.processes import run

GUIDE = (Path(asyncsink.__file__).parent / "guide" / "cluster.md").read_text(encoding="utf-8")
Command = Callable[..., CompletedProcess[bytes]]


def examples(language: str) -> list[str]:
    """The blocks of code of the section."""
    section = GUIDE.partition("\n## Dask\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def derivatives(many: Path) -> Path:
    """The directory that holds the examples' source."""
    many.rename(many.parent / "derivatives")
    return many.parent


def test_the_commands_of_the_guide(
    cluster: LocalCluster,
    client: Client,
    seaweed: DevServer,
    derivatives: Path,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    run_inside: Command,
) -> None:
    client.write_scheduler_file(str(derivatives / "scheduler.json"))
    (block,) = examples("sh")
    lines = [shlex.split(line) for line in block.splitlines()]
    assert len(lines) == 3
    for number, words in enumerate(lines):
        replaced = {"s3://my-bucket/study": f"s3://{bucket}/{number}", "tcp://head:8786": cluster.scheduler_address,
                    "local:4": "local:1"}  # fmt: skip
        command = [replaced.get(word, word) for word in words[1:]]
        done = run_inside(*command, env=os.environ | seaweed.environment, cwd=derivatives)
        assert done.returncode == 0, done.stderr
    keys = [key.removeprefix("0/") for key in stored() if key.startswith("0/")]
    assert len(keys) == 300
    assert sorted(stored()) == sorted(f"{number}/{key}" for number in range(3) for key in keys)


def test_the_program_of_the_guide(
    cluster: LocalCluster, seaweed: DevServer, derivatives: Path, bucket: str, s3: Any
) -> None:
    (block,) = examples("python")
    program = f"""
        import asyncio
        from distributed import Client

        async def main(client):
        {textwrap.indent(block, "    ").replace(chr(10), chr(10) + " " * 8)}
            print(report.objects_uploaded)

        with Client({cluster.scheduler_address!r}) as client:
            asyncio.run(main(client))
    """.replace("my-bucket", bucket)
    words = [sys.executable, "-c", textwrap.dedent(program)]
    done = run(words, env=os.environ | seaweed.environment, cwd=derivatives)
    assert done.stdout.split() == ["300"], done.stderr
    assert (derivatives / "study.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dask", "nowhere"], "is no Dask cluster; expected"),
        (["--dask", "local:2", "--dry-run"], "leave --dask out"),
        (["--dask", "local:2", "--journal", "j"], "a Dask export keeps none"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run_inside: Command, many: Path, words: list[str], sentence: str, options: dict[str, Any]
) -> None:
    done = run_inside("export", many, "s3://bucket/study", *words, env=dict(os.environ))
    assert done.returncode == 2
    assert sentence in done.stderr.decode()


def test_without_the_extra_the_message_names_it(
    run_inside: Command, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "asyncsink.adapters.dask_export", raising=False)
    for name in [name for name in sys.modules if name.startswith("asyncsink.adapters.dask")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run_inside("export", many, "s3://bucket/study", "--dask", "local:2", env=dict(os.environ))
    assert done.returncode == 2
    assert b"pip install 'asyncsink[dask]'" in done.stderr
