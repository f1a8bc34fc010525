"""The pictures of the guide's page about pages (`make page-shots`): a run of 5,000 files with faults, in Chromium.

    python -m tests.support.page_pictures DIRECTORY [PAGE]

With PAGE, the page of the run is kept there too.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import shutil
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import anyio
import numpy as np

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
    "page-desktop": (1100, 1290, False),
    "page-desktop-dark": (1100, 1290, True),
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


PIXELS = """
new Promise(done => {
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    pen.drawImage(picture, 0, 0);
    const bytes = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    done(btoa(text));
  };
  picture.src = "data:image/png;base64,%s";
})
"""
"""The red, green, blue and opacity of each pixel of a PNG, decoded by the browser."""


def indexed_png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG with 256 colours at most: a third of the size, and no difference to be seen in a page of text."""
    seen = np.frombuffer(pixels, np.uint8).reshape(height * width, 4)[:, :3].astype(np.int64)
    codes, places, numbers = np.unique(
        seen[:, 0] << 16 | seen[:, 1] << 8 | seen[:, 2], return_inverse=True, return_counts=True
    )
    palette = codes[np.argsort(-numbers)[:256]]
    # The edges of letters have thousands of colours for few pixels: each becomes the nearest one of the palette.
    apart = sum(abs((codes[:, None] >> shift & 255) - (palette[None] >> shift & 255)) for shift in (0, 8, 16))
    nearest = np.argmin(apart, axis=1)
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = nearest[places].reshape(height, width)
    colors = b"".join(int(code).to_bytes(3, "big") for code in palette)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": colors,
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


async def harm(proxy: FaultProxy) -> None:
    """Throttling after a few seconds, then a server that is gone for a while."""
    await anyio.sleep(6)
    proxy.rules = (DENIED, Rule(s.Status(503, "SlowDown"), operation="PutObject", probability=0.15), LATENCY)
    await anyio.sleep(2)
    proxy.rules = (DENIED, LATENCY)
    await anyio.sleep(7)
    proxy.rules = (Rule(t.ResetPeer()),)
    await anyio.sleep(14)
    proxy.rules = (DENIED, LATENCY)


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
            png = await tab.screenshot()
            pixels = base64.b64decode(await tab.value(PIXELS % base64.b64encode(png).decode()))
            (directory / f"{name}.png").write_bytes(indexed_png(width, height, pixels))


async def main(directory: Path, kept: Path | None) -> None:
    """Run, and shoot."""
    with tempfile.TemporaryDirectory(prefix="study-") as folder:
        page = await run(Path(folder))
        await shoot(page, directory)
        if kept is not None:
            shutil.copy(page, kept)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
