"""The pictures of the guide's page about pages (`make page-shots`): a run of 5,000 files with faults, in Chromium.

    python -m tests.support.page_pictures DIRECTORY [PAGE]

With PAGE, the page of the run is kept there too.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import anyio

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from tests.support.chromium import chromium

FILES = 5000
KINDS = (
    ("anat", "desc-preproc_T1w.nii.gz", 900_000),
    ("anat", "dseg.nii.gz", 120_000),
    ("func", "task-rest_desc-preproc_bold.nii.gz", 1_400_000),
    ("func", "task-rest_desc-brain_mask.nii.gz", 60_000),
    ("func", "task-rest_events.tsv", 4_000),
    ("func", "task-rest_bold.json", 1_500),
    ("figures", "desc-carpetplot_bold.svg", 180_000),
    ("figures", "desc-summary_T1w.html", 7_000),
)
WINDOWS = {
    "page-desktop": (1200, 1330, False),
    "page-desktop-dark": (1200, 1330, True),
    "page-phone": (390, 1180, False),
    "page-phone-dark": (390, 1180, True),
}
DENIED = Rule(s.Status(403, "AccessDenied"), operation="PutObject", key="*sub-07*_events.tsv")
LATENCY = Rule(t.Latency(0.04, 0.03), operation="PutObject")


def make_study(root: Path) -> None:
    """Derivatives as fmriprep leaves them, and what nobody wants to publish."""
    dice = random.Random(7)
    noise = dice.randbytes(3 << 20)
    for number in range(FILES):
        subject, run = number // len(KINDS) % 24, number // len(KINDS) // 24
        folder, name, usual = KINDS[number % len(KINDS)]
        path = (
            root / f"sub-{subject + 1:02}" / f"ses-{run % 3 + 1}" / folder / f"sub-{subject + 1:02}_run-{run:02}_{name}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        start = dice.randrange(1 << 20)
        path.write_bytes(noise[start : start + int(dice.lognormvariate(0, 0.5) * usual / 6)])
    for subject in range(3):
        (root / f"sub-{subject + 1:02}" / ".DS_Store").write_bytes(b"finder")
    large = root / "sub-01" / "ses-1" / "func" / "sub-01_task-rest_desc-smooth_bold.nii.gz"
    large.write_bytes(noise * 12)


async def harm(proxy: FaultProxy) -> None:
    """Throttling after a few seconds, then a server that is gone for a while."""
    await anyio.sleep(5)
    proxy.rules = (DENIED, Rule(s.Status(503, "SlowDown"), operation="PutObject", probability=0.4), LATENCY)
    await anyio.sleep(5)
    proxy.rules = (DENIED, LATENCY)
    await anyio.sleep(4)
    proxy.rules = (Rule(t.ResetPeer()),)
    await anyio.sleep(9)
    proxy.rules = (DENIED, Rule(s.Status(503, "SlowDown"), operation="PutObject", probability=0.03), LATENCY)


async def run(folder: Path) -> Path:
    """Publish the study through the faults; returns the page."""
    study, page = folder / "derivatives", folder / "study.html"
    make_study(study)
    with DevServer(buckets=["open-data"]) as server, FaultProxy(server.endpoint_url, DENIED, LATENCY, seed=1) as proxy:
        os.environ.update(server.environment)
        async with anyio.create_task_group() as group:
            group.start_soon(harm, proxy)
            await asyncsink.export_directory(
                study,
                "s3://open-data/derivatives/study",
                endpoint_url=proxy.endpoint_url,
                manifest=folder / "study.jsonl",
                exclude=[".DS_Store"],
                tags={"study": "ds000114"},
                bandwidth_bytes_per_second="12MB",
                journal=False,
                report=page,
            )
            group.cancel_scope.cancel()
    return page


async def shoot(page: Path, directory: Path) -> None:
    """A picture for each of WINDOWS."""
    async with chromium() as tab:
        for name, (width, height, dark) in WINDOWS.items():
            await tab.open(page, width=width, height=height, dark=dark)
            (directory / f"{name}.png").write_bytes(await tab.screenshot())


async def main(directory: Path, kept: Path | None) -> None:
    """Run, and shoot."""
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        page = await run(Path(folder))
        await shoot(page, directory)
        if kept is not None:
            shutil.copy(page, kept)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
