"""A tenth of all requests is harmed in every way at once, and the command publishes everything, with exit code 0."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.main import main
from asyncsink.options import parse
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FAULTS, HARMLESS, OF_COMPLETE, Rule
from tests.support.combinations import crossed

ANY_REQUEST: tuple[t.Toxic, ...] = (
    *FAULTS,
    s.Status(503, "SlowDown", retry_after="1", early=True),
    t.LimitData(1000, stream="upstream"),
)
DAMAGE = s.CorruptBody()
LANES = ("wire", "aioboto3")


def storm() -> list[Rule]:
    """Rules count: each proxy needs its own."""
    return [
        Rule(*OF_COMPLETE, *ANY_REQUEST, operation="CompleteMultipartUpload", probability=0.3),
        Rule(DAMAGE, operation=("PutObject", "UploadPart"), probability=0.005),
        Rule(*ANY_REQUEST, *HARMLESS, probability=0.1),
    ]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """240 small files, some of a few MiB, and four that are sent in parts."""
    dice = random.Random(4)
    sizes = [0, 1, *(dice.randrange(20_000) for _ in range(238))]
    files = {f"sub-{n % 12:02}/small-{n}.json": dice.randbytes(size) for n, size in enumerate(sizes)}
    files |= {f"sub-{n:02}/medium.nii": dice.randbytes(MIB + n * 300_000) for n in range(6)}
    return files | {f"sub-{n:02}/parts.nii.gz": dice.randbytes(MIB) * (9 + n) for n in range(4)}


def _answers(toxic: t.Toxic) -> bool:
    """Whether a client gets a whole answer that tells it to try again, on a connection that it may keep."""
    return isinstance(toxic, s.Status) and not toxic.early


@crossed("lane,seed", LANES, range(20), usual=lambda lane, seed: seed == LANES.index(lane))
def test_a_storm(
    harm: Any,
    watchful: RetryPolicy,
    cohort: dict[str, bytes],
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    s3: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    lane: str,
    seed: int,
) -> None:
    source = tmp_path / "cohort"
    for name, data in cohort.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    # The command has no options for what nobody should have to set; half a minute for each stall is too long here.
    monkeypatch.setattr(parse, "_retry", lambda _: watchful)
    proxy = harm(*storm(), seed=seed)
    where = ["--endpoint-url", proxy.endpoint_url, "--transport", lane, "--part-size", "5MiB"]
    code = main(["export", str(source), f"s3://{bucket}", *where, "--local-copy", str(tmp_path / "copy"), "--json"])
    told = json.loads(capfd.readouterr().out)
    assert (code, told["failures"]) == (0, [])
    assert stored() == cohort
    assert {str(p.relative_to(tmp_path / "copy")): p.read_bytes() for p in (tmp_path / "copy").rglob("*.*")} == cohort
    assert told["objects_uploaded"] == len(cohort)
    assert told["bytes_uploaded"] == sum(map(len, cohort.values()))
    # What repeats a request is counted, but for what is sent again at once because a kept connection had ended.
    repeated = sum(hit.toxic in ANY_REQUEST or isinstance(hit.toxic, s.ErrorIn200) for hit in proxy.hits)
    # Nothing is sent again at once after an answer.
    answered = sum(isinstance(hit.toxic, s.ErrorIn200) or _answers(hit.toxic) for hit in proxy.hits)
    at_once = len(proxy.requests) - told["requests"]
    assert repeated > 10
    assert told["retries"] + at_once >= repeated
    assert told["retries"] >= answered > 0
    assert at_once >= 0
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
