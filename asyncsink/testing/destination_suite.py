"""Conformance of a Destination, as a pytest class.

    class TestMine(DestinationSuite):
        @asynccontextmanager
        async def destination(self): ...        # yields a fresh, empty destination
        async def read_back(self, key): ...     # its bytes under a key, read another way, or None
        async def leftovers(self): ...          # whatever an abort should have removed

Needs pytest and anyio's pytest plugin (part of anyio). A subclass overrides the class attributes that describe the
capabilities of its destination; an autouse fixture of its own may request further fixtures.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from asyncsink.destinations.base import Destination, PartWriter, RunForecast, Unknown
from asyncsink.errors import AsyncSinkError, IntegrityError, TransferError
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.integrity.sameness import CompareWith, SamenessDigester, SkipIt, conclude, decide
from asyncsink.model import Checksum, SourceFile, Transfer
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.multipart.parts import PartPlan, StreamPlan

MTIME_NS = 1_700_000_000_123_456_789
EMPTY_KEY = "sub-01/empty.txt"
UNICODE_KEYS = ("sub-01/tâche.nii", "日本語/ファイル.nii.gz", "a b/c+d&e=f%20.txt", "x" * 200 + ".nii", "🧠/T1w.json")


def transfer_of(key: str, body: bytes, *, mtime_ns: int = MTIME_NS) -> Transfer:
    """A transfer of a file that does not exist on disk."""
    source = SourceFile(path=f"/nowhere/{key.rpartition('/')[2]}", size_bytes=len(body), mtime_ns=mtime_ns)
    return Transfer(source=source, key=key, local=key)


def content(size_bytes: int, seed: int = 1) -> bytes:
    """The same bytes for the same seed; no two parts are alike."""
    return random.Random(seed).randbytes(size_bytes)


def wrong(checksum: Checksum) -> Checksum:
    """A well-formed checksum of other bytes."""
    return checksum_of(b"other bytes than were sent", checksum.algorithm)


@pytest.mark.anyio
class DestinationSuite:
    """Conformance of a Destination. The module's docstring lists the methods of a subclass."""

    part_size_bytes: int = 64 * 1024
    """Size of a part; S3 requires at least 5 MiB."""
    algorithm: ChecksumAlgorithm = "CRC64NVME"
    refuses_wrong_checksums: bool = True
    """Whether a body with another checksum than announced is refused."""
    refuses_wrong_parts: bool = True
    """Whether a part of another length than planned is refused at once."""
    empty_parts: bool = True
    """Whether an empty object may be written in parts."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop the tests run on."""
        return "asyncio"

    def destination(self) -> AbstractAsyncContextManager[Destination]:
        """A fresh, empty destination, not prepared; closed on leaving."""
        raise NotImplementedError("a subclass of DestinationSuite makes its destination here")

    async def read_back(self, key: str) -> bytes | None:
        """The bytes under a key, read without the destination, or None."""
        raise NotImplementedError("a subclass of DestinationSuite reads an object here")

    async def leftovers(self) -> Sequence[str]:
        """Names of temporary files or open uploads; there are none after an abort."""
        return ()

    @pytest.fixture
    async def place(self) -> AsyncIterator[Destination]:
        """The destination, prepared."""
        async with self.destination() as destination:
            await destination.prepare(RunForecast(objects_total=None, common_prefix="", sample_key=""))
            yield destination

    async def _write_parts(
        self, writer: PartWriter, body: bytes, plan: PartPlan, order: Sequence[int]
    ) -> dict[int, Checksum]:
        checksums: dict[int, Checksum] = {}

        async def write(number: int) -> None:
            part = plan.part(number)
            piece = memoryview(body)[part.offset : part.offset + part.length]
            checksums[number] = checksum_of(piece, self.algorithm)
            await writer.write_part(number, part.offset, piece, checksums[number])

        async with anyio.create_task_group() as group:
            for number in order:
                group.start_soon(write, number)
        return checksums

    # -- whole bodies -------------------------------------------------------------------------------------------

    async def test_nothing_is_there_before(self, place: Destination) -> None:
        for closely in (False, True):
            assert await place.look(transfer_of("sub-01/absent.nii", b""), closely=closely) is None

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_put_stores_the_bytes(self, place: Destination, kind: type[bytes]) -> None:
        body = content(10_007)
        transfer = transfer_of("sub-01/anat/T1w.nii.gz", body)
        stored = await place.put(transfer, kind(body), checksum_of(body, self.algorithm))
        assert stored.location == place.url(transfer)
        assert stored.confirmed_by != "nothing"
        assert await self.read_back(transfer.key) == body
        assert not await self.leftovers()

    async def test_put_keeps_a_copy(self, place: Destination) -> None:
        buffer = bytearray(content(1000))
        body = bytes(buffer)
        await place.put(transfer_of("reused.bin", body), buffer, checksum_of(buffer, self.algorithm))
        buffer[:] = bytes(1000)
        assert await self.read_back("reused.bin") == body

    async def test_put_without_a_checksum(self, place: Destination) -> None:
        stored = await place.put(transfer_of("plain.bin", b"abc"), b"abc", None)
        assert stored.confirmed_by != "nothing"
        assert await self.read_back("plain.bin") == b"abc"

    async def test_an_empty_body(self, place: Destination) -> None:
        transfer = transfer_of(EMPTY_KEY, b"")
        await place.put(transfer, b"", checksum_of(b"", self.algorithm))
        assert await self.read_back(EMPTY_KEY) == b""
        existing = await place.look(transfer, closely=True)
        assert existing is not None
        assert existing.size_bytes == 0

    async def test_put_overwrites(self, place: Destination) -> None:
        for body in (content(5000), content(70, seed=2)):
            await place.put(transfer_of("twice.bin", body), body, checksum_of(body, self.algorithm))
            assert await self.read_back("twice.bin") == body

    @pytest.mark.parametrize("key", UNICODE_KEYS)
    async def test_keys_of_every_script(self, place: Destination, key: str) -> None:
        body = key.encode()
        await place.put(transfer_of(key, body), body, checksum_of(body, self.algorithm))
        assert await self.read_back(key) == body
        existing = await place.look(transfer_of(key, body), closely=False)
        assert existing is not None
        assert existing.size_bytes == len(body)

    async def test_many_puts_at_once(self, place: Destination) -> None:
        bodies = {f"sub-{number:02}/run-{number % 3}.tsv": content(number * 37, number) for number in range(40)}
        async with anyio.create_task_group() as group:
            for key, body in bodies.items():
                group.start_soon(place.put, transfer_of(key, body), body, checksum_of(body, self.algorithm))
        assert {key: await self.read_back(key) for key in bodies} == bodies
        assert not await self.leftovers()

    async def test_a_wrong_checksum_is_refused(self, place: Destination) -> None:
        if not self.refuses_wrong_checksums:
            pytest.skip("this destination does not compute checksums of what it is given")
        body = content(2000)
        with pytest.raises(AsyncSinkError):
            await place.put(transfer_of("bad.bin", body), body, wrong(checksum_of(body, self.algorithm)))
        assert await self.read_back("bad.bin") is None
        assert not await self.leftovers()

    # -- looking ------------------------------------------------------------------------------------------------

    async def test_look_tells_size_and_time(self, place: Destination) -> None:
        body = content(1234)
        await place.put(transfer_of("look.bin", body), body, checksum_of(body, self.algorithm))
        existing = await place.look(transfer_of("look.bin", body), closely=False)
        assert existing is not None
        assert existing.size_bytes == 1234
        assert existing.modified is not None
        assert existing.modified.tzinfo is not None

    async def test_looking_at_many_tells_what_looking_at_each_tells(self, place: Destination) -> None:
        body = content(1000)
        there, absent = transfer_of("sub-01/there.nii", body), transfer_of("sub-01/absent.nii", body)
        await place.put(there, body, checksum_of(body, self.algorithm))
        found = await place.look_many([absent, there, absent])
        assert len(found) == 3
        for transfer, existing in zip((absent, there, absent), found, strict=True):
            if not isinstance(existing, Unknown):
                assert existing == await place.look(transfer, closely=False)

    async def test_look_closely_tells_what_is_the_same(self, place: Destination) -> None:
        body, other = content(3000), content(3000, seed=9)
        transfer = transfer_of("closely.bin", body)
        await place.put(transfer, body, checksum_of(body, self.algorithm))
        assert await self._found_same(place, transfer, body)
        assert not await self._found_same(place, transfer, other)

    async def test_an_object_in_parts_is_found_to_be_the_same(self, place: Destination) -> None:
        body = content(2 * self.part_size_bytes + 1)
        transfer, plan = transfer_of("parts-closely.bin", body), PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer, plan, self.algorithm)
        await self._write_parts(writer, body, plan, [1, 2, 3])
        await writer.complete(checksum_of(body, self.algorithm))
        assert await self._found_same(place, transfer, body)
        assert not await self._found_same(place, transfer, body[:-1] + b"?")

    async def _found_same(self, place: Destination, transfer: Transfer, body: bytes) -> bool:
        existing = await place.look(transfer, closely=True)
        assert existing is not None
        assert existing.looked_closely
        decision = decide(
            existing,
            policy="checksum",
            size_bytes=len(body),
            mtime_ns=MTIME_NS,
            wanted=self.algorithm,
            cheap_md5_bytes_max=0,
            part_sizes=[self.part_size_bytes],
        )
        assert isinstance(decision, CompareWith)
        digester = SamenessDigester(decision)
        digester.update(body)
        return isinstance(conclude(decision, existing, digester.digests()), SkipIt)

    # -- bodies in parts ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("extra", [0, 1, -1], ids=["exact", "one-byte-more", "one-byte-less"])
    async def test_parts_out_of_order(self, place: Destination, extra: int) -> None:
        body = content(3 * self.part_size_bytes + extra)
        transfer, plan = transfer_of("sub-01/func/bold.nii", body), PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer, plan, self.algorithm)
        order = list(range(plan.count, 0, -1))
        checksums = await self._write_parts(writer, body, plan, order)
        assert await self.read_back(transfer.key) is None, "nothing appears before it is whole"
        whole = combine(self.algorithm, ((checksums[part.part_number], part.length) for part in plan))
        stored = await writer.complete(whole)
        assert stored.location == place.url(transfer)
        assert stored.confirmed_by != "nothing"
        assert await self.read_back(transfer.key) == body
        assert not await self.leftovers()

    async def test_a_part_may_be_sent_again(self, place: Destination) -> None:
        body = content(self.part_size_bytes + 10)
        plan = PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer_of("again.bin", body), plan, self.algorithm)
        await self._write_parts(writer, body, plan, [2])
        await self._write_parts(writer, body, plan, [1, 2])
        await writer.complete(checksum_of(body, self.algorithm))
        assert await self.read_back("again.bin") == body

    async def test_parts_replace_an_object(self, place: Destination) -> None:
        old, body = b"old", content(self.part_size_bytes + 1)
        await place.put(transfer_of("replaced.bin", old), old, checksum_of(old, self.algorithm))
        plan = PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer_of("replaced.bin", body), plan, self.algorithm)
        await self._write_parts(writer, body, plan, [1, 2])
        assert await self.read_back("replaced.bin") == old
        await writer.complete(checksum_of(body, self.algorithm))
        assert await self.read_back("replaced.bin") == body

    async def test_an_empty_object_in_parts(self, place: Destination) -> None:
        if not self.empty_parts:
            pytest.skip("this destination takes empty objects whole")
        writer = await place.start(transfer_of(EMPTY_KEY, b""), PartPlan(0, self.part_size_bytes), self.algorithm)
        await writer.write_part(1, 0, b"", checksum_of(b"", self.algorithm))
        await writer.complete(checksum_of(b"", self.algorithm))
        assert await self.read_back(EMPTY_KEY) == b""

    @pytest.mark.parametrize("written", [[], [1], [1, 3], [2, 3]])
    async def test_a_missing_part_is_noticed(self, place: Destination, written: list[int]) -> None:
        body = content(2 * self.part_size_bytes + 5)
        plan = PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer_of("holes.bin", body), plan, self.algorithm)
        await self._write_parts(writer, body, plan, written)
        with pytest.raises((IntegrityError, TransferError)):
            await writer.complete(checksum_of(body, self.algorithm))
        await writer.abort()
        assert await self.read_back("holes.bin") is None
        assert not await self.leftovers()

    async def test_a_part_of_another_size_is_refused(self, place: Destination) -> None:
        if not self.refuses_wrong_parts:
            pytest.skip("this destination compares sizes when the object is completed")
        body = content(2 * self.part_size_bytes)
        writer = await place.start(
            transfer_of("short.bin", body), PartPlan(len(body), self.part_size_bytes), self.algorithm
        )
        for number, offset, length in [(1, 0, 5), (2, 0, self.part_size_bytes), (3, 2 * self.part_size_bytes, 1)]:
            piece = body[:length]
            with pytest.raises(IntegrityError):
                await writer.write_part(number, offset, piece, checksum_of(piece, self.algorithm))
        await writer.abort()
        assert not await self.leftovers()

    async def test_wrong_checksums_in_parts_are_refused(self, place: Destination) -> None:
        if not self.refuses_wrong_checksums:
            pytest.skip("this destination does not compute checksums of what it is given")
        body = content(self.part_size_bytes + 5)
        plan, whole = PartPlan(len(body), self.part_size_bytes), checksum_of(body, self.algorithm)
        writer = await place.start(transfer_of("bad-parts.bin", body), plan, self.algorithm)
        first = body[: self.part_size_bytes]
        with pytest.raises(AsyncSinkError):
            await writer.write_part(1, 0, first, wrong(whole))
        await self._write_parts(writer, body, plan, [1, 2])
        with pytest.raises(AsyncSinkError):
            await writer.complete(wrong(whole))
        await writer.abort()
        assert await self.read_back("bad-parts.bin") is None
        assert not await self.leftovers()

    async def test_a_stream_whose_length_is_known_at_its_end(self, place: Destination) -> None:
        body = content(2 * self.part_size_bytes + 7)
        plan = StreamPlan(self.part_size_bytes, self.part_size_bytes)
        writer = await place.start(transfer_of("stream.bin", b""), plan, self.algorithm)
        checksums: list[tuple[Checksum, int]] = []
        while plan.size_bytes < len(body):
            part = plan.add(min(plan.next_size, len(body) - plan.size_bytes))
            piece = memoryview(body)[part.offset : part.offset + part.length]
            checksums.append((checksum_of(piece, self.algorithm), part.length))
            await writer.write_part(part.part_number, part.offset, piece, checksums[-1][0])
        assert await self.read_back("stream.bin") is None
        stored = await writer.complete(combine(self.algorithm, checksums))
        assert stored.confirmed_by != "nothing"
        assert await self.read_back("stream.bin") == body
        assert not await self.leftovers()

    # -- abort --------------------------------------------------------------------------------------------------

    async def test_abort_leaves_nothing_and_may_be_repeated(self, place: Destination) -> None:
        body = content(2 * self.part_size_bytes)
        plan = PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer_of("aborted.bin", body), plan, self.algorithm)
        await self._write_parts(writer, body, plan, [2])
        await writer.abort()
        await writer.abort()
        assert await self.read_back("aborted.bin") is None
        assert not await self.leftovers()

    async def test_nothing_can_be_written_after_an_abort(self, place: Destination) -> None:
        body = content(self.part_size_bytes)
        plan = PartPlan(len(body), self.part_size_bytes)
        writer = await place.start(transfer_of("after.bin", body), plan, self.algorithm)
        await writer.abort()
        with pytest.raises(TransferError):
            await self._write_parts_alone(writer, body)
        with pytest.raises((TransferError, IntegrityError)):
            await writer.complete(checksum_of(body, self.algorithm))
        assert await self.read_back("after.bin") is None
        assert not await self.leftovers()

    async def _write_parts_alone(self, writer: PartWriter, body: bytes) -> None:
        await writer.write_part(1, 0, body, checksum_of(body, self.algorithm))

    async def test_a_cancelled_put_is_whole_or_absent(self, place: Destination) -> None:
        body = content(self.part_size_bytes)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await place.put(transfer_of("cancelled.bin", body), body, checksum_of(body, self.algorithm))
        assert await self.read_back("cancelled.bin") in (None, body)
        assert not await self.leftovers()

    async def test_a_cancelled_object_in_parts_leaves_nothing(self, place: Destination) -> None:
        body = content(3 * self.part_size_bytes)
        plan = PartPlan(len(body), self.part_size_bytes)
        with anyio.CancelScope() as scope:
            writer = await place.start(transfer_of("cancelled-parts.bin", body), plan, self.algorithm)
            try:
                await self._write_parts(writer, body, plan, [3, 1])
                scope.cancel()
                await self._write_parts(writer, body, plan, [2])
                await writer.complete(checksum_of(body, self.algorithm))
            except BaseException:
                await writer.abort()
                raise
        assert scope.cancelled_caught
        assert await self.read_back("cancelled-parts.bin") is None
        assert not await self.leftovers()

    async def test_a_cancelled_start_leaves_nothing(self, place: Destination) -> None:
        body = content(self.part_size_bytes)
        writers: list[PartWriter] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            writers.append(
                await place.start(
                    transfer_of("never.bin", body), PartPlan(len(body), self.part_size_bytes), self.algorithm
                )
            )
        for writer in writers:
            await writer.abort()
        assert not await self.leftovers()

    async def test_closing_twice_is_harmless(self, place: Destination) -> None:
        await place.aclose()
        await place.aclose()

    async def test_names_are_for_people(self, place: Destination) -> None:
        assert place.name
        assert place.lane
        assert place.url(transfer_of("a/b.nii", b"")).endswith("a/b.nii")
        place.check_size(transfer_of("a/b.nii", b"abc"))
