"""What an error tells a program: its class, its cause, and the same in another process."""

from __future__ import annotations

import multiprocessing
import pickle
import pydoc
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import INTERNAL_ERROR, SLOW_DOWN
from asyncsink.testing.toxics import Toxic

pytestmark = pytest.mark.anyio
QUICK = asyncsink.RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.002, throttled_seconds=0)


@pytest.mark.parametrize(
    ("toxic", "kind", "code"),
    [(SLOW_DOWN, asyncsink.Throttled, "SlowDown"), (INTERNAL_ERROR, asyncsink.ServerFault, "InternalError")],
)
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_failed_put_is_caused_by_the_error_itself(
    toxic: Toxic, kind: type[asyncsink.TransferError], code: str, lane: Any, tree: Path, bucket: str, options: Any
) -> None:
    with FaultProxy(options["endpoint_url"], Rule(toxic, operation="PutObject")) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": QUICK, "transport": lane}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **given) as sink:
            with pytest.raises(asyncsink.PutFailed, match=code) as caught:
                await sink.put("m", tree / "a.txt")
            error = caught.value
            with pytest.raises(asyncsink.ExportFailed):
                await sink.put("m", tree / "a.txt")
    assert type(error.cause) is kind
    assert error.__cause__ is error.cause
    assert isinstance(error.cause, asyncsink.TransferError)
    assert (error.cause.operation, error.cause.attempts, error.cause.code) == ("PutObject", 3, code)
    assert error.cause.elapsed_seconds > 0
    assert error.report is None
    assert (error.failure.key, error.failure.error, error.failure.attempts) == ("m/a.txt", kind.__name__, 3)
    assert error.failure == sink.report.failures[0]
    assert str(error) == error.failure.message == str(error.cause)


async def test_a_failed_put_keeps_no_frame_alive_whose_buffers_are_large(tree: Path, bucket: str, options: Any) -> None:
    with FaultProxy(options["endpoint_url"], Rule(INTERNAL_ERROR)) as proxy:
        proxy.rules = (Rule(INTERNAL_ERROR, operation=("PutObject", "UploadPart")),)
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": QUICK}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **given) as sink:
            for name in ("a.txt", "sub/large.nii.gz"):
                with pytest.raises(asyncsink.PutFailed) as caught:
                    await sink.put("m", tree / name)
                links: list[BaseException | None] = [caught.value.cause]
                while links:
                    if link := links.pop():
                        assert "asyncsink" not in _modules(link), "frames hold the buffers of bodies"
                        links += [link.__cause__, link.__context__]


def _modules(error: BaseException) -> set[str]:
    trace, found = error.__traceback__, set()
    while trace is not None:
        found.add(trace.tb_frame.f_globals["__name__"].partition(".")[0])
        trace = trace.tb_next
    return found


async def test_a_value_that_is_no_path_is_refused_with_the_door_for_it(bucket: str, options: Any) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        for value, door in ((b"data", "AsyncSink.put_bytes"), (BytesIO(b"data"), "AsyncSink.put_stream")):
            wrong: Any = value
            with pytest.raises(asyncsink.ConfigError, match=door):
                await sink.put("x", wrong)


KINDS = [kind for kind in map(asyncsink.__getattr__, asyncsink.__all__) if isinstance(kind, type)]
ERRORS = sorted((kind for kind in KINDS if issubclass(kind, asyncsink.AsyncSinkError)), key=lambda kind: kind.__name__)


def test_every_error_is_a_public_name() -> None:
    from asyncsink import errors

    defined = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(ERRORS) == defined


def an_error(kind: type[asyncsink.AsyncSinkError]) -> asyncsink.AsyncSinkError:
    failure = asyncsink.Failure("/s", "k", "s3://b/k", "Throttled", "A sentence.", "upload", 3)
    required: dict[str, dict[str, Any]] = {
        "IntegrityError": {"expected": "1", "actual": "2"},
        "DeadlinePassed": {"report": None},
        "ExportFailed": {"report": None},
        "GrabFailed": {"report": None},
        "PutFailed": {"failure": failure, "cause": asyncsink.Throttled("A sentence.", attempts=3)},
    }
    error = kind("A sentence.", **required.get(kind.__name__, {}))
    error.problems = (asyncsink.SourceMissing("Another."),)
    return error


def _raise(kind: type[asyncsink.AsyncSinkError]) -> None:
    raise an_error(kind)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_a_pickle_as_it_went_in(kind: type[asyncsink.AsyncSinkError]) -> None:
    """With a TypeError instead, a multiprocessing.Pool hangs for ever."""
    error = an_error(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), str(again.problems[0])) == (kind, "A sentence.", "Another.")
    if isinstance(again, asyncsink.PutFailed):
        assert isinstance(error, asyncsink.PutFailed)
        assert again.failure == error.failure
        assert again.__cause__ is again.cause
        assert isinstance(again.cause, asyncsink.Throttled)
        assert again.cause.attempts == 3


def test_an_error_leaves_a_pool_of_processes() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(asyncsink.PutFailed, match=r"A sentence\."):
            pool.apply(_raise, (asyncsink.PutFailed,))


def test_the_error_of_a_run_leaves_its_report_behind_in_another_process(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    report = asyncsink.export_sync({"m": str(tree / "a.txt")}, str(tmp_path / "there"))
    error = asyncsink.ExportFailed("A sentence.", report=report)
    assert pickle.loads(pickle.dumps(error)).report is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (asyncsink.AsyncSink, asyncsink.ExportOptions),
        (asyncsink.S3Reader, asyncsink.ReaderOptions),
        (asyncsink.S3Grabber, asyncsink.GrabOptions),
    ],
)
def test_help_names_every_option(kind: type, options: Any) -> None:
    shown = pydoc.plain(pydoc.render_doc(kind))
    text = " ".join(shown[: shown.index("Methods defined here")].split())
    assert f"help(asyncsink.{options.__name__})" in text
    for name in {name for each in options.__mro__ for name in getattr(each, "__annotations__", {})}:
        assert re.search(rf"\b{name}\b", text), name
