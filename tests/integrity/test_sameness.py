"""What counts as the same object: every rule as a row, and the whole way against a real server's ETags."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from boto3.s3.transfer import TransferConfig
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import Digester, checksum_of
from asyncsink.integrity.sameness import (
    PART_SIZE_CANDIDATES_MAX,
    CompareWith,
    Decision,
    Digests,
    Existing,
    LookCloser,
    SamenessDigester,
    SkipIt,
    Upload,
    candidate_part_sizes,
    conclude,
    confirm,
    decide,
    parts_of_etag,
    same,
)
from asyncsink.model import Checksum
from asyncsink.options.schema import Overwrite
from asyncsink.options.settings import MIB, ChecksumAlgorithm

SIZE = 20 * MIB
PLAIN = "0cc175b9c0f1b6a831c399e269772661"
MANY = f"{PLAIN}-3"
SECOND = 10**9
WHEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
WHEN_NS = int(WHEN.timestamp()) * SECOND
NVME, SHA = checksum_of(b"x", "CRC64NVME").value, checksum_of(b"x", "SHA256").value


def ask(
    existing: Existing | None,
    policy: Overwrite = "checksum",
    *,
    size_bytes: int = SIZE,
    mtime_ns: int = WHEN_NS,
    wanted: ChecksumAlgorithm | None = "CRC64NVME",
    cheap: int = 8 * MIB,
    part_sizes: Sequence[int] = (),
) -> Decision:
    return decide(
        existing,
        policy=policy,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        wanted=wanted,
        cheap_md5_bytes_max=cheap,
        part_sizes=part_sizes,
    )


def there(size_bytes: int = SIZE, **known: Any) -> Existing:
    return Existing(size_bytes=size_bytes, **known)


@pytest.mark.parametrize(
    ("existing", "policy", "expected"),
    [
        (None, "never", Upload("not there")),
        (None, "size", Upload("not there")),
        (None, "size-mtime", Upload("not there")),
        (None, "checksum", Upload("not there")),
        (None, "always", Upload("always")),
        (there(), "always", Upload("always")),
        (there(), "never", SkipIt("is there already")),
        (there(1), "never", SkipIt("is there already")),
        (there(1), "size", Upload("size differs")),
        (there(1), "size-mtime", Upload("size differs")),
        (there(1), "checksum", Upload("size differs")),
        (there(), "size", SkipIt("size is equal")),
    ],
)
def test_what_needs_no_content(existing: Existing | None, policy: Overwrite, expected: Decision) -> None:
    assert ask(existing, policy) == expected


NEWER, NOT_NEWER = Upload("source is newer"), SkipIt("size is equal and the source is not newer")


@pytest.mark.parametrize(
    ("modified", "keeps_mtime", "mtime_ns", "expected"),
    [
        (WHEN, False, WHEN_NS - 1, NOT_NEWER),
        (WHEN, False, WHEN_NS, NEWER),  # both may be cut to seconds: an edit after the upload could look like this
        (WHEN, False, WHEN_NS + 1, NEWER),
        (WHEN + timedelta(milliseconds=500), False, WHEN_NS + SECOND // 2, NOT_NEWER),
        (WHEN + timedelta(milliseconds=500), False, WHEN_NS + SECOND // 2 + 1, NEWER),
        (WHEN, True, WHEN_NS, NOT_NEWER),
        (WHEN + timedelta(microseconds=3), True, WHEN_NS + 3999, NOT_NEWER),
        (WHEN + timedelta(microseconds=3), True, WHEN_NS + 4000, NEWER),
        (datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC), True, -SECOND // 2, NOT_NEWER),
        (WHEN.astimezone(), False, WHEN_NS - 1, NOT_NEWER),
    ],
)
def test_times(modified: datetime, keeps_mtime: bool, mtime_ns: int, expected: Decision) -> None:
    assert ask(there(modified=modified, keeps_mtime=keeps_mtime), "size-mtime", mtime_ns=mtime_ns) == expected


def test_an_unknown_time_is_asked_for_once() -> None:
    assert ask(there(), "size-mtime") == LookCloser()
    assert ask(there(looked_closely=True), "size-mtime") == Upload("age is unknown")


MULTIPART_SIZES = CompareWith(part_sizes_bytes=(8 * MIB, 8_000_000, 10_000_000, 7 * MIB))


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        # a checksum that is known settles it, and the run's own algorithm first
        (there(checksums={"CRC64NVME": NVME}), CompareWith(("CRC64NVME",))),
        (there(checksums={"SHA256": SHA, "CRC64NVME": NVME}), CompareWith(("CRC64NVME",))),
        (there(checksums={"SHA256": SHA}, etag=PLAIN), CompareWith(("SHA256",))),
        # composite values say nothing about the whole
        (there(checksums={"SHA256": f"{SHA}-3"}), LookCloser()),
        (there(checksums={"SHA256": f"{SHA}-3"}, looked_closely=True), Upload("nothing to compare")),
        # large file: a HEAD is cheaper than an MD5
        (there(etag=PLAIN), LookCloser()),
        (there(etag=MANY), LookCloser()),
        (there(), LookCloser()),
        # nothing more to learn
        (there(etag=PLAIN, looked_closely=True), CompareWith(("MD5",))),
        (there(etag=PLAIN, looked_closely=True, etag_is_md5=False), Upload("nothing to compare")),
        (there(etag=MANY, looked_closely=True, etag_is_md5=False), Upload("nothing to compare")),
        (there(looked_closely=True), Upload("nothing to compare")),
        (there(etag="opaque", looked_closely=True), Upload("nothing to compare")),
        (there(etag=MANY, looked_closely=True), MULTIPART_SIZES),
        (there(etag=MANY, looked_closely=True, part_size_bytes=9 * MIB), CompareWith(part_sizes_bytes=(9 * MIB,))),
        # parts of several sizes: no single size explains the first part and the number of parts
        (there(etag=MANY, looked_closely=True, part_size_bytes=5 * MIB), Upload("nothing to compare")),
        (there(etag=f"{PLAIN}-10000", looked_closely=True), Upload("nothing to compare")),
        (there(etag=f"{PLAIN}-1", looked_closely=True), CompareWith(part_sizes_bytes=(SIZE,))),
    ],
)
def test_content_of_a_large_file(existing: Existing, expected: Decision) -> None:
    assert ask(existing) == expected


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (there(10, etag=PLAIN), CompareWith(("MD5",), final=False)),
        (there(10, etag=PLAIN, etag_is_md5=False), LookCloser()),
        (there(10, etag=MANY), LookCloser()),
        (there(10, etag=PLAIN, looked_closely=True, checksums={"CRC64NVME": NVME}), CompareWith(("CRC64NVME",))),
        (there(10, etag=PLAIN, looked_closely=True), CompareWith(("MD5",))),
    ],
)
def test_content_of_a_small_file(existing: Existing, expected: Decision) -> None:
    assert ask(existing, size_bytes=10) == expected


def test_the_runs_own_algorithm_is_preferred() -> None:
    existing = there(checksums={"SHA256": SHA, "CRC64NVME": NVME, "CRC32": checksum_of(b"x", "CRC32").value})
    assert ask(existing, wanted="SHA256") == CompareWith(("SHA256",))
    assert ask(existing, wanted=None) == CompareWith(("CRC64NVME",))
    assert ask(existing, wanted="CRC32C") == CompareWith(("CRC64NVME",))


def test_two_empty_files_are_the_same() -> None:
    decision = ask(there(0), size_bytes=0)
    assert decision == CompareWith()
    assert conclude(decision, there(0), Digests()) == SkipIt("both are empty")


def test_our_own_part_sizes_come_first() -> None:
    existing = there(etag=MANY, looked_closely=True)
    assert ask(existing, part_sizes=[9 * MIB, 6 * MIB]) == CompareWith(
        part_sizes_bytes=(9 * MIB, 8 * MIB, 8_000_000, 10_000_000, 7 * MIB)
    )


@given(
    etag=st.sampled_from(["", PLAIN, MANY, f"{PLAIN}-1", "opaque"]),
    checksums=st.dictionaries(st.sampled_from(["CRC64NVME", "SHA256"]), st.sampled_from([NVME, f"{SHA}-2"])),
    part_size_bytes=st.none() | st.integers(1, SIZE),
    etag_is_md5=st.booleans(),
    wanted=st.none() | st.sampled_from(get_args(ChecksumAlgorithm)),
    size_bytes=st.sampled_from([0, 1, 10, SIZE]),
    modified=st.none() | st.just(WHEN),
    policy=st.sampled_from(get_args(Overwrite)),
)
def test_every_question_ends(
    size_bytes: int, policy: Overwrite, wanted: ChecksumAlgorithm | None, **known: Any
) -> None:
    """Looking closely is asked for once at most, and a comparison that fails after it means Upload."""
    for looked_closely in (False, True):
        existing = Existing(size_bytes=size_bytes, looked_closely=looked_closely, **known)
        decision = ask(existing, policy, size_bytes=size_bytes, wanted=wanted)
        if isinstance(decision, CompareWith):
            assert bool(decision.algorithms) + bool(decision.part_sizes_bytes) == (size_bytes > 0)
            digester = SamenessDigester(decision)
            digester.update(b"something else")
            decision = conclude(decision, existing, digester.digests())
        if not isinstance(decision, LookCloser):
            return
    pytest.fail("LookCloser was asked for after a closer look")


def test_a_difference_that_encryption_may_explain_is_looked_at() -> None:
    listed = there(4, etag=PLAIN)
    quick = ask(listed, size_bytes=4)
    assert isinstance(quick, CompareWith)
    digester = SamenessDigester(quick)
    digester.update(b"body")
    assert conclude(quick, listed, digester.digests()) == LookCloser()
    # The HEAD shows SSE-KMS and a checksum: it is the same after all.
    looked = there(
        4,
        etag=PLAIN,
        looked_closely=True,
        etag_is_md5=False,
        checksums={"CRC64NVME": checksum_of(b"body", "CRC64NVME").value},
    )
    close = ask(looked, size_bytes=4)
    assert isinstance(close, CompareWith)
    assert close.final
    digester = SamenessDigester(close)
    digester.update(b"body")
    assert conclude(close, looked, digester.digests()) == SkipIt("same checksum")


def test_conclusions() -> None:
    existing = there(1, etag=PLAIN.upper(), looked_closely=True)
    compare = CompareWith(("MD5",))
    assert conclude(compare, existing, Digests(checksums={"MD5": checksum_of(b"a", "MD5")})) == SkipIt("same checksum")
    assert conclude(compare, existing, Digests(checksums={"MD5": checksum_of(b"b", "MD5")})) == Upload(
        "checksum differs"
    )
    assert not same(compare, there(1, etag=MANY), Digests(checksums={"MD5": checksum_of(b"a", "MD5")}))
    with pytest.raises(KeyError):
        same(compare, existing, Digests())


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def etag_of_parts(body: bytes, part_size: int) -> str:
    """A multipart ETag the plain way."""
    parts = [body[start : start + part_size] for start in range(0, len(body), part_size)] or [b""]
    md5s = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"


@given(
    body=st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    sizes=st.lists(st.integers(1, 80), max_size=3, unique=True),
)
def test_one_pass_computes_everything(body: bytes, cuts: list[int], sizes: list[int]) -> None:
    digester = SamenessDigester(CompareWith(("CRC64NVME", "MD5"), tuple(sizes)))
    for piece in pieces_of(body, cuts):
        digester.update(piece)
    digests = digester.digests()
    direct = Digester(["CRC64NVME", "MD5"])
    direct.update(body)
    assert digests.checksums == {name: direct.result(name) for name in ("CRC64NVME", "MD5")}
    assert digests.etags == {size: etag_of_parts(body, size) for size in sizes}


@given(size_bytes=st.integers(1, 10**13), part_size=st.sampled_from([5, 8, 15, 16, 50, 64, 100]))
def test_the_part_size_of_usual_tools_is_among_the_candidates(size_bytes: int, part_size: int) -> None:
    count = -(-size_bytes // (part_size * MIB))
    if not 1 < count <= 10_000:
        return
    candidates = candidate_part_sizes(f"{PLAIN}-{count}", size_bytes, known=None)
    assert len(candidates) <= PART_SIZE_CANDIDATES_MAX
    assert all(-(-size_bytes // size) == count for size in candidates)
    # With two or three parts more sizes fit than are tried.
    assert part_size * MIB in candidates or count <= 3


@pytest.mark.parametrize(
    "etag", ["", PLAIN, f"{PLAIN}-0", f"{PLAIN}-", f"{PLAIN}-123456", f"x{PLAIN}-2", f"{PLAIN}-2-3"]
)
def test_what_is_no_multipart_etag(etag: str) -> None:
    assert parts_of_etag(etag) is None
    assert candidate_part_sizes(etag, SIZE, known=None) == ()


@pytest.mark.parametrize(("part_mib", "size_bytes"), [(5, 12 * MIB), (8, 8 * MIB + 1), (15, 31 * MIB)])
def test_what_another_tool_uploaded_is_recognised(s3: Any, bucket: str, part_mib: int, size_bytes: int) -> None:
    body = random.Random(part_mib).randbytes(size_bytes)
    config = TransferConfig(multipart_threshold=1, multipart_chunksize=part_mib * MIB, use_threads=False)
    s3.upload_fileobj(io.BytesIO(body), bucket, "other/tool.nii", Config=config)
    etag = s3.head_object(Bucket=bucket, Key="other/tool.nii")["ETag"].strip('"')
    assert etag == etag_of_parts(body, part_mib * MIB)
    existing = Existing(size_bytes=len(body), etag=etag, looked_closely=True)
    for content, expected in [(body, SkipIt("same multipart ETag")), (body[:-1] + b"?", Upload("checksum differs"))]:
        compare = ask(existing, size_bytes=size_bytes)
        assert isinstance(compare, CompareWith)
        digester = SamenessDigester(compare)
        digester.update(content)
        assert conclude(compare, existing, digester.digests()) == expected


# -- what an answer proves --------------------------------------------------------------------------------------------

BODY = b"a"
SENT = checksum_of(BODY, "CRC64NVME")
OTHER = checksum_of(b"b", "CRC64NVME")
MD5 = checksum_of(BODY, "MD5")
OTHER_ETAG = hashlib.md5(b"b", usedforsecurity=False).hexdigest()


def of_body(algorithm: ChecksumAlgorithm) -> Checksum:
    return checksum_of(BODY, algorithm)


def not_called(algorithm: ChecksumAlgorithm) -> Checksum:
    raise AssertionError(f"the body's {algorithm} was computed without need")


@pytest.mark.parametrize(
    ("sent", "answered", "etag", "etag_is_md5", "expected"),
    [
        (SENT, SENT, OTHER_ETAG, True, "server-checksum"),
        (MD5, None, PLAIN, True, "etag"),
        (SENT, None, PLAIN, False, "nothing"),
        (SENT, None, MANY, True, "nothing"),
        (SENT, None, "", True, "nothing"),
        (None, None, "", True, "nothing"),
        (SENT, Checksum("CRC64NVME", f"{OTHER.value}-2"), "", True, "nothing"),
    ],
)
def test_proofs_for_which_nothing_is_computed(
    sent: Checksum | None, answered: Checksum | None, etag: str, etag_is_md5: bool, expected: str
) -> None:
    assert confirm(sent, answered, etag, not_called, etag_is_md5) == expected


@pytest.mark.parametrize("sent", [SENT, None])
def test_an_etag_is_proof_where_no_checksum_came_back(sent: Checksum | None) -> None:
    assert confirm(sent, None, PLAIN, of_body, etag_is_md5=True) == "etag"
    assert confirm(sent, None, PLAIN, None, etag_is_md5=True) == "nothing"


@pytest.mark.parametrize("sent", [SENT, None])
@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256"])
def test_a_checksum_of_the_servers_own_choice_is_compared(sent: Checksum | None, algorithm: ChecksumAlgorithm) -> None:
    assert confirm(sent, of_body(algorithm), "", of_body, etag_is_md5=True) == "server-checksum"
    with pytest.raises(IntegrityError):
        confirm(sent, checksum_of(b"b", algorithm), PLAIN, of_body, etag_is_md5=True)
    if sent is None or sent.algorithm != algorithm:
        assert confirm(sent, of_body(algorithm), "", None, etag_is_md5=True) == "nothing"


@pytest.mark.parametrize(
    ("sent", "answered", "etag"),
    [(SENT, OTHER, PLAIN), (SENT, None, OTHER_ETAG), (None, None, OTHER_ETAG), (MD5, None, OTHER_ETAG)],
)
def test_a_contradiction_is_an_error(sent: Checksum | None, answered: Checksum | None, etag: str) -> None:
    with pytest.raises(IntegrityError, match=r"other bytes for sub-01/T1w\.nii than were sent") as caught:
        confirm(sent, answered, etag, of_body, etag_is_md5=True, where="sub-01/T1w.nii")
    assert caught.value.expected in str(caught.value)
    assert caught.value.actual in str(caught.value)
    assert caught.value.expected != caught.value.actual
