"""The recipe for Slurm, submitted as it is printed to a real one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from asyncsink.splitting.cutting import spread
from tests.support.holding_proxy import HoldingProxy
from tests.support.processes import run
from tests.support.slurm import Slurm

pytestmark = pytest.mark.anyio
PARTS = 8
SMALL = 1000
LARGE = 12 << 20  # two parts of an upload
PLACES = spread(PARTS)
"""The subject of each part."""
LARGE_ONES = tuple(sorted(PLACES[part] for part in (2, 3, 5)))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three files for each of eight subjects; those of three have a large one."""
    for subject in range(PARTS):
        folder = tmp_path / "study" / f"sub-{subject}"
        folder.mkdir(parents=True)
        for name in ("anat.nii", "bold.nii", "motion.par"):
            size = LARGE if (subject in LARGE_ONES and name == "bold.nii") else SMALL
            (folder / name).write_bytes(f"{subject}{name[0]}".encode() * (size // 2))
    return tmp_path / "study"


async def submit(slurm: Slurm, *tasks: str) -> tuple[str, str]:
    """Submit the recipe; the numbers of the array job and of the merge job."""
    told = await run_sync(partial(slurm.run, "bash", "publish.sh", *tasks))
    words = told.split()
    return words[2].rstrip(";"), words[6].rstrip(",")


@pytest.mark.timeout(300)
async def test_an_array_with_a_requeued_a_killed_and_a_failed_task(
    slurm: Slurm,
    study: Path,
    tmp_path: Path,
    proxy: HoldingProxy,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    s3: Any,
) -> None:
    """Every task's receipts are kept, and the parts of its uploads; resubmitted alone, the failed ones complete the
    whole. Three tasks are caught in the middle of a large file: one is requeued, one is near its time limit, and one is
    killed."""

    def asyncsink(*words: object) -> str:
        return slurm.run("asyncsink", *words)

    def half_sent() -> list[str]:
        """Keys of open uploads, each of which has its first part alone."""
        found = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        parts = {
            each["Key"]: s3.list_parts(Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"]).get("Parts", [])
            for each in found
        }
        return sorted(key for key, there in parts.items() if [part["PartNumber"] for part in there] == [1])

    slurm.environment["AWS_ENDPOINT_URL"] = proxy.endpoint_url
    await run_sync(asyncsink, "split", study, f"s3://{bucket}/published", "parts", "--part-objects", 3)
    (tmp_path / "publish.sh").write_text(await run_sync(asyncsink, "recipe", "slurm", "parts"))
    away = (study / f"sub-{PLACES[7]}").rename(tmp_path / "away")  # task 7 fails
    proxy.hold = lambda operation: "request" if operation == "UploadPart 2" else ""
    array, merge = await submit(slurm)
    large = [f"published/sub-{subject}/bold.nii" for subject in LARGE_ONES]
    with anyio.fail_after(100):
        while await run_sync(half_sent) != large:  # noqa: ASYNC110 - other processes make it so
            await anyio.sleep(0.1)
    proxy.forget()
    os.kill(await run_sync(slurm.pid, f"{array}_5"), signal.SIGKILL)
    await run_sync(slurm.run, "scontrol", "requeue", f"{array}_2")
    await run_sync(slurm.run, "scontrol", "update", f"JobId={array}_3", "TimeLimit=2")  # the signal comes 120 s before

    assert await run_sync(slurm.wait, merge) == "FAILED"
    ended = await run_sync(slurm.states, array)
    assert {task.partition("_")[2] for task, state in ended.items() if state != "COMPLETED"} == {"3", "5", "7"}
    assert "Restarts=1 " in await run_sync(slurm.run, "scontrol", "-o", "show", "job", f"{array}_2")
    both_attempts = (tmp_path / f"slurm-{array}_2.out").read_text()
    assert both_attempts.index("Interrupted: ") < both_attempts.index("All 3 files")
    assert ended[f"{array}_3"] == "FAILED"  # TIMEOUT would mean that no signal came before the limit
    assert "Interrupted: " in (tmp_path / f"slurm-{array}_3.out").read_text()
    told = (tmp_path / f"slurm-{merge}.out").read_text()
    assert all(f"receipts-0000{part}.jsonl" in told for part in (3, 5, 7))

    away.rename(study / f"sub-{PLACES[7]}")
    array, merge = await submit(slurm, "7")
    assert await run_sync(slurm.wait, merge) == "FAILED"
    assert await run_sync(slurm.states, array) == {f"{array}_7": "COMPLETED"}
    told = (tmp_path / f"slurm-{merge}.out").read_text()
    assert [f"receipts-0000{part}.jsonl" in told for part in (3, 5, 7)] == [True, True, False]
    array, merge = await submit(slurm, "3,5")
    assert await run_sync(slurm.wait, merge) == "COMPLETED"
    assert [proxy.parts_of(key) for key in large] == [[2]] * len(large)
    assert not list((tmp_path / "parts").glob("uploads-*"))

    verified = json.loads(await run_sync(asyncsink, "verify", "parts/merged.jsonl", "--json"))
    assert (verified["ok"], verified["objects_total"]) == (True, 3 * PARTS)
    assert await run_sync(stored) == {
        f"published/{path.relative_to(study)}": path.read_bytes() for path in study.rglob("*") if path.is_file()
    }
    assert "Uploads" not in await run_sync(partial(s3.list_multipart_uploads, Bucket=bucket))


async def test_more_parts_than_an_array_has_tasks(
    slurm: Slurm, tmp_path: Path, options: dict[str, Any], bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    """Slurm itself takes the whole array, and would not take one task for each part; the last task has the last two."""
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1002):
        (source / f"{number:04}").touch()
    slurm.run("asyncsink", "split", source, f"s3://{bucket}/many", "the parts", "--part-objects", 1)
    (tmp_path / "publish.sh").write_text(slurm.run("asyncsink", "recipe", "slurm", "the parts"))
    array, merge = await submit(slurm, "0,500")
    assert await run_sync(slurm.wait, merge) == "FAILED"
    assert slurm.states(array) == {f"{array}_0": "COMPLETED", f"{array}_500": "COMPLETED"}
    assert set(stored()) == {f"many/{spread(1002)[part]:04}" for part in (0, 1, 1000, 1001)}
    assert "of 4 manifests" in (tmp_path / f"slurm-{merge}.out").read_text()
    for last, taken in ((500, True), (1001, False)):
        asked = run(["sbatch", "--test-only", f"--array=0-{last}", "--wrap", "true"], env=slurm.environment)
        assert (asked.returncode == 0) is taken, asked.stderr
