"""`asyncsink recipe`: what is printed is complete, legal for its scheduler, and covers every part once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from tests.support.manifests import write_split
from tests.support.processes import run

PAGE = files("asyncsink").joinpath("guide/cluster.md").read_text(encoding="utf-8")
PARTS = (1, 2, 8, 1001, 1002, 2500, 10_000, 10_001, 25_000)


@pytest.fixture
def recipe(inside: Any, tmp_path: Path) -> Callable[..., str]:
    """The recipe of a split into so many parts."""

    def of(kind: str, parts: int) -> str:
        directory = tmp_path / f"in {parts} parts"
        directory.mkdir(exist_ok=True)
        (directory / "split.json").unlink(missing_ok=True)
        write_split(directory, [1] * parts)
        ended = inside("recipe", kind, directory)
        assert (ended.code, ended.stderr) == (0, "")
        return str(ended.stdout)

    return of


def published(script: str, variable: str, tasks: int) -> list[int]:
    """The parts that the tasks of an array publish: `script` run by a shell for each task, printing its command."""
    printing = script.replace("exec asyncsink", f'echo "${variable}"')
    loop = f"for {variable} in $(seq 0 {tasks - 1}); do {printing}\ndone"
    parts: list[int] = []
    for line in run(["sh", "-c", loop]).stdout.splitlines():
        task, *_, part = line.split()
        first, _, last = (task if part == "auto" else part).partition("-")
        parts += range(int(first), int(last or first) + 1)
    return parts


@pytest.mark.parametrize("parts", PARTS)
def test_slurm_arrays_cover_every_part_once(recipe: Callable[..., str], parts: int) -> None:
    """No array exceeds MaxArraySize's default."""
    script = recipe("slurm", parts)
    last, limit = map(int, re.findall(r'--array="\$\{1:-0-(\d+)\}%(\d+)"', script)[0])
    assert last <= 1000
    assert 1 <= limit <= 16
    task = script.partition("<<'TASK'\n")[2].partition("\nTASK\n")[0]
    assert all(line in task for line in ("#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"))
    assert published(task, "SLURM_ARRAY_TASK_ID", last + 1) == list(range(parts))


@pytest.mark.parametrize("parts", PARTS)
def test_batch_definitions_are_legal_and_cover_every_part_once(recipe: Callable[..., str], parts: int) -> None:
    """botocore's model of AWS Batch takes them; an array has 2 to 10,000 tasks, and one part has none."""
    told = json.loads(recipe("batch", parts))
    model = botocore.session.get_session().get_service_model("batch")

    def check(operation: str, arguments: Any) -> None:
        report = ParamValidator().validate(arguments, model.operation_model(operation).input_shape)
        assert not report.has_errors(), report.generate_report()

    check("RegisterJobDefinition", told["job_definition"])
    for name in ("submit_job", "submit_merge", "submit_missing"):
        check("SubmitJob", told[name])
    tasks = told["submit_job"].get("arrayProperties", {"size": 1})["size"]
    assert (tasks == 1) == (parts == 1)
    assert tasks <= 10_000
    command = told["job_definition"]["containerProperties"]["command"]
    if command[0] == "sh":
        assert published(command[2], "AWS_BATCH_JOB_ARRAY_INDEX", tasks) == list(range(parts))
    else:
        assert command[:2] == ["asyncsink", "run"]
        assert command[3:] == ["--part", "auto" if tasks > 1 else "0"]
        assert tasks == parts


@pytest.fixture
def split(cli: Any, inside: Any, results: Path, bucket: str, tmp_path: Path) -> Path:
    """Four parts of one file each, and our command on the PATH."""
    cli.environment["PATH"] = f"{Path(sys.executable).parent}:{cli.environment['PATH']}"
    assert inside("split", results, f"s3://{bucket}/study", "parts", "--parts", "4").code == 0
    return tmp_path / "parts"


def test_batch_commands_publish_and_merge(
    cli: Any, inside: Any, split: Path, keys: Callable[[], list[str]], tmp_path: Path
) -> None:
    told = json.loads(inside("recipe", "batch", split).stdout)

    def run_container(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        container = told["job_definition"]["containerProperties"] | told[name].get("containerOverrides", {})
        return run(container["command"], env=cli.environment | variables, cwd="/")

    assert run_container("submit_job", AWS_BATCH_JOB_ARRAY_INDEX="2").returncode == 0
    assert keys() == [json.loads((split / "part-00002.jsonl").read_text())["key"]]
    assert run_container("submit_merge").returncode == 1
    assert run_container("submit_missing").returncode == 0
    assert run_container("submit_merge").returncode == 0
    assert len(keys()) == 4
    assert inside("verify", split / "merged.jsonl", "--json").json["objects_total"] == 4


def test_python_for_dask_has_what_the_split_was_given(inside: Any, results: Path, bucket: str, tmp_path: Path) -> None:
    """Without DIR there are names to replace. Dask itself is in tests/slurm."""
    destination = f"s3://{bucket}/study"
    assert inside("split", results, destination, "parts", "--substitute", "sub=subject").code == 0
    script = inside("recipe", "dask-slurm", "parts").stdout
    compile(script, "recipe", "exec")
    assert f"export_directory(client, {str(results)!r}, {destination!r}, **{{'substitutions': " in script
    script = inside("recipe", "dask-slurm").stdout
    compile(script, "recipe", "exec")
    assert "export_directory(client, 'SOURCE', 's3://BUCKET/PREFIX')" in script


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slrum", "parts"], "There is no recipe 'slrum'; expected one of slurm, batch, dask-slurm."),
        (["slurm"], "The recipe slurm needs DIR"),
        (["batch"], "The recipe batch needs DIR"),
        (["slurm", "nothing"], "nothing' holds no split.json"),
        (["dask-slurm", "nothing"], "nothing' holds no split.json"),
        (["slurm", ""], "expected a path"),
        (["slurm", "empty"], "has no parts"),
        (["batch", "line\nbreak"], "has a character that a script cannot hold"),
        ([], "Missing argument 'KIND'"),
    ],
)
def test_what_has_no_recipe_is_refused(inside: Any, tmp_path: Path, words: list[str], message: str) -> None:
    for name, parts in (("empty", []), ("line\nbreak", [1])):
        (tmp_path / name).mkdir()
        write_split(tmp_path / name, parts)
    ended = inside("recipe", *words)
    assert (ended.code, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "error" in line]) == 1


@pytest.mark.parametrize(
    ("said", "instead", "message"),
    [
        ('"source": "/data"', '"source": ""', "not of one directory"),
        ('"destination": "s3://results"', '"destination": "/backup"', "is for the directory '/backup'"),
    ],
)
def test_splits_that_dask_cannot_publish_have_no_recipe(
    inside: Any, tmp_path: Path, said: str, instead: str, message: str
) -> None:
    """The names of such outputs are in no file, and workers do not fill a directory."""
    write_split(tmp_path, [1])
    place = tmp_path / "split.json"
    assert said in place.read_text()
    place.write_text(place.read_text().replace(said, instead))
    ended = inside("recipe", "dask-slurm", tmp_path)
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert message in ended.stderr


@pytest.mark.parametrize("tool", ["parallel", "xargs", "mpirun"])
def test_lines_of_the_guide_for_other_starters(
    cli: Any, split: Path, keys: Callable[[], list[str]], tmp_path: Path, tool: str
) -> None:
    """As they are printed, with the numbers of this split."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    (line,) = [line for line in PAGE.splitlines() if re.search(rf"(^|\| ){tool} ", line)]
    line = line.replace("63", "3").replace("-n 16", "-n 2 --oversubscribe --allow-run-as-root").replace("16", "2")
    done = run(["bash", "-c", line], env=cli.environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(keys()) == len(list(split.glob("receipts-0000[0-3].jsonl"))) == 4
