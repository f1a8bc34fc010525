"""Where the CPU time of a small object goes: every step of an export measured alone, then the steps together.

Each part is measured by the process's own user and system time per object, over the same files as the scenario
"small", with the null server where it sends. Parts are repeated in turn, and medians are kept: on a machine whose speed
moves, read them as shares.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from asyncsink.destinations.base import Stored
from asyncsink.engine.planning.survey import take_survey
from asyncsink.engine.planning.walk import discovery_of
from asyncsink.engine.recording.events import Progress
from asyncsink.engine.transfer.outcomes import receipt
from asyncsink.event_loops import run_to_end
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Transfer
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.settings import KIB, Secret
from asyncsink.report.outcomes import encoded
from asyncsink.s3.http.reading import Answer, AnswerReader, response_of
from asyncsink.s3.http.requests import RequestWriter
from asyncsink.s3.http.signing import UNSIGNED_PAYLOAD, Signer, endpoint_of
from asyncsink.s3.operations import ObjectAttributes, PutObject
from asyncsink.s3.stack import open_stack
from asyncsink.sink import export_directory
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.reader import read_at_rest
from benchmarks.lineup.contenders import BUCKET
from benchmarks.lineup.scenarios import DATA, SCENARIOS, DataSet, make_data_set
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.scripts.clock import CONCURRENCY
from benchmarks.servers.running import RunningServer, running_server

SIZE_BYTES = 16 * KIB
_TIMESTAMP = "20260131T235959Z"
_ANSWER = (
    "HTTP/1.1 200 OK\r\nServer: null\r\nDate: Sun, 22 Nov 2026 14:00:00 GMT\r\n"
    'ETag: "0123456789abcdef0123456789abcdef"\r\nx-amz-checksum-crc64nvme: {value}\r\n'
    "x-amz-checksum-type: FULL_OBJECT\r\nContent-Length: 0\r\n\r\n"
)
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """A step, alone or with others.

    Attributes:
        name, how: for the table.
        run: does it once for every file; blocking.
    """

    name: str
    how: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measured:
    """Median over the rounds, microseconds of CPU per object, and context switches per object."""

    name: str
    how: str
    user_us: float
    system_us: float
    switches: float


def profile(*, rounds: int, quick: bool, tell: Tell) -> dict[str, Any]:
    """Measure every part `rounds` times in turn; the result is ready for JSON. Blocking."""
    started, machine = datetime.now(UTC), describe_machine()
    with tempfile.TemporaryDirectory(prefix="asyncsink-profile-") as directory:
        data = make_data_set(SCENARIOS["small"], Path(directory), quick=quick)
        with running_server("null", Path(directory)) as server, _environment(server, directory):
            parts = _Parts(data, server, Path(directory)).all()
            taken: dict[str, list[tuple[float, float, float]]] = {part.name: [] for part in parts}
            for number in range(rounds):
                for part in parts:
                    taken[part.name].append(_measure(part, data.objects))
                tell(f"round {number + 1} of {rounds}")
    return {
        "kind": "profile",
        "started": started.isoformat(timespec="seconds"),
        "command": f"python -m benchmarks profile --rounds {rounds}" + (" --quick" if quick else ""),
        "machine": machine,
        "versions": describe_versions(),
        "objects": data.objects,
        "object_bytes": SIZE_BYTES,
        "rounds": rounds,
        "parts": [asdict(_median(part, taken[part.name])) for part in parts],
    }


def render(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| part | µs of CPU per object | of these in the kernel | context switches | measured by |"]
    lines.append("| --- | ---: | ---: | ---: | --- |")
    for part in result["parts"]:
        total = part["user_us"] + part["system_us"]
        lines.append(
            f"| {part['name']} | {total:.1f} | {part['system_us']:.1f} | {part['switches']:.2f} | {part['how']} |"
        )
    return "\n".join(lines)


class _Parts:
    """All steps over one data set."""

    def __init__(self, data: DataSet, server: RunningServer, scratch: Path) -> None:
        self._data = data
        self._server = server
        self._scratch = scratch
        self._run = 0
        self._settings: Settings = parse_options(f"s3://{BUCKET}/{DATA}", {"endpoint_url": server.url})
        target = self._settings.target
        assert isinstance(target, S3Target)
        self._target = target
        self._source = DirectorySource(str(data.directory), symlinks="follow")
        self._discovery = discovery_of(self._settings, target, self._source)
        self._transfers = [found for found in self._discovery if isinstance(found, Transfer)]
        self._body = memoryview(bytearray(os.urandom(SIZE_BYTES)))
        self._checksum = checksum_of(self._body, "CRC64NVME")
        attributes = ObjectAttributes(content_type="application/octet-stream")
        self._puts = [
            PutObject(key=each.key, body=self._body, checksum=self._checksum, attributes=attributes)
            for each in self._transfers
        ]

    def all(self) -> list[Part]:
        """In the order of an export."""
        return [
            Part("survey", "`take_survey`: walk, stat, route, count, access, alone", self._survey),
            Part("read", "`read_at_rest`: open, fstat, preadv, stat, close, alone", self._read),
            Part("checksum", "`checksum_of` 16 KiB, CRC64NVME, alone", self._sum),
            Part("request", "`RequestWriter.head`: headers and SigV4, alone", self._head),
            Part("answer", "`AnswerReader` and `response_of`, alone", self._answer),
            Part("outcome", "`receipt` and the manifest's line, alone", self._outcome),
            Part("wire lane", f"request and answer with send and receive: {CONCURRENCY} tasks, one body", self._wire),
            Part("export", "everything together, manifest on", self._export),
        ]  # fmt: skip

    def _survey(self) -> None:
        async def survey() -> None:
            limiter = anyio.CapacityLimiter(8)
            await take_survey(self._discovery, self._settings, limiter=limiter, progress=Progress())

        run_to_end(survey)

    def _read(self) -> None:
        for transfer in self._transfers:
            assert read_at_rest(transfer.source) is not None

    def _sum(self) -> None:
        for _ in self._transfers:
            checksum_of(self._body, "CRC64NVME")

    def _head(self) -> None:
        signer = Signer("AKIANULLSERVER", Secret(b"checked-by-nobody"), "us-east-1")
        writer = RequestWriter(endpoint_of(self._target, "us-east-1"), signer)
        for put in self._puts:
            writer.head(put, UNSIGNED_PAYLOAD, _TIMESTAMP)

    def _answer(self) -> None:
        reader, raw = AnswerReader(), _ANSWER.format(value=self._checksum.value).encode()
        for put in self._puts:
            reader.begin(bodiless=False)
            reader.feed(raw)
            answer = reader.answer
            assert isinstance(answer, Answer)
            response_of(put, answer)

    def _outcome(self) -> None:
        for transfer in self._transfers:
            stored = Stored(location=f"s3://{BUCKET}/{transfer.key}", etag="0" * 32, confirmed_by="server-checksum")
            encoded([receipt(transfer, stored, self._checksum, 0.01)])

    def _wire(self) -> None:
        async def send() -> None:
            settings = self._settings
            async with open_stack(self._target, settings.retry, settings.limits) as stack:
                waiting = iter(self._puts)

                async def work() -> None:
                    for put in waiting:
                        await stack.transport.send(put)

                await _together(work)

        run_to_end(send)

    def _export(self) -> None:
        self._run += 1

        async def export() -> None:
            report = await export_directory(
                self._data.directory,
                f"s3://{BUCKET}/{DATA}-{self._run}",
                endpoint_url=self._server.url,
                concurrency=CONCURRENCY,
                manifest=self._scratch / "manifest.jsonl",
            )
            report.raise_for_failures()

        run_to_end(export)


async def _together(work: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(CONCURRENCY):
            group.start_soon(work)


def _median(part: Part, taken: list[tuple[float, float, float]]) -> Measured:
    user, system, switches = (round(statistics.median(each), 3) for each in zip(*taken, strict=True))
    return Measured(part.name, part.how, user, system, switches)


def _measure(part: Part, objects: int) -> tuple[float, float, float]:
    then = resource.getrusage(resource.RUSAGE_SELF)
    part.run()
    now = resource.getrusage(resource.RUSAGE_SELF)
    user, system = now.ru_utime - then.ru_utime, now.ru_stime - then.ru_stime
    switches = now.ru_nvcsw - then.ru_nvcsw + now.ru_nivcsw - then.ru_nivcsw
    return user / objects * 1e6, system / objects * 1e6, switches / objects


@contextlib.contextmanager
def _environment(server: RunningServer, home: str) -> Iterator[None]:
    """The server's variables in this process, and a home of its own, for the block."""
    before = dict(os.environ)
    os.environ.update(server.environment, HOME=home)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
