"""Pure: what counts as "the same object", and what a server's answer proves.

"Already there" means the same checksum, or the same ETag: size alone decides nothing, and a multipart ETag does not
prevent the comparison (Nipype rule 29). The decision has steps; the caller performs those that need I/O:

    decide ──► Upload | SkipIt                         done
           ├─► LookCloser    ask the destination for checksums, then decide again
           └─► CompareWith   read the file once (SamenessDigester), then conclude ──► Upload | SkipIt | LookCloser
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, assert_never

from asyncsink.errors import IntegrityError
from asyncsink.integrity.checksums import (
    COMPOSITE_ALGORITHMS,
    ByteBody,
    Digester,
    composite,
    digest_of,
    etag_md5,
    is_composite,
    multipart_etag,
)
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.schema import Overwrite
from asyncsink.options.settings import GIB, MIB, ChecksumAlgorithm
from asyncsink.value import dataclass

# -- Pure: part sizes with which another tool may have written a multipart object --------------------------------------
# A multipart ETag is an MD5 over the parts' MD5s. Its suffix is the number of parts; the part size is not recorded, but
# few sizes are in use, and most of them would give another number of parts.

PART_SIZE_CANDIDATES_MAX = 8
"""Most part sizes that are tried: each costs one MD5 over the whole file."""

_MB = 1000**2

# The most frequent ones first: defaults of AWS' own tools and SDKs, MinIO, rclone, s3cmd, s5cmd, Cyberduck, Hadoop and
# similar tools; then sizes that users choose, in binary and in decimal units.
TYPICAL_PART_SIZES_BYTES: tuple[int, ...] = (
    *(size * MIB for size in (8, 5, 16, 64, 15, 50, 10, 100, 32, 128, 25, 20, 6, 256, 512)),
    GIB,
    *(size * _MB for size in (8, 5, 10, 16, 50, 100, 15, 20, 25, 32, 64, 128, 256, 500, 512, 1000)),
    *(size * MIB for size in (7, 12, 24, 30, 40, 48, 60, 75, 80, 96, 150, 200, 250, 300, 400, 500)),
    2 * GIB,
    5 * GIB,
)
_MULTIPART_ETAG = re.compile(r"[0-9a-fA-F]{32}-([1-9][0-9]{0,4})")


def parts_of_etag(etag: str) -> int | None:
    """The number of parts in a multipart ETag ("hex-N", no quotes), or None for any other ETag."""
    match = _MULTIPART_ETAG.fullmatch(etag)
    return int(match.group(1)) if match else None


def candidate_part_sizes(
    etag: str, size_bytes: int, *, known: int | None, preferred: Sequence[int] = ()
) -> tuple[int, ...]:
    """Part sizes in bytes that fit an object of `size_bytes` with this multipart ETag, most likely first.

    Args:
        etag: without quotes.
        size_bytes: of the object, more than 0.
        known: size of the object's first part where the server reports it: then it is the only candidate.
        preferred: sizes to try before the typical ones (those of this run's plan).

    Returns:
        At most PART_SIZE_CANDIDATES_MAX sizes; none where the ETag is not a multipart ETag, or no size fits.
    """
    count = parts_of_etag(etag)
    if count is None:
        return ()
    if count == 1:
        return (size_bytes,)
    if known is not None:
        return tuple(_fitting([known], size_bytes, count))
    # Tools that scale the part size with the file round it up to whole MiB.
    grown = -(-size_bytes // (count * MIB)) * MIB
    fitting = _fitting((*preferred, *TYPICAL_PART_SIZES_BYTES, grown), size_bytes, count)
    return tuple(fitting)[:PART_SIZE_CANDIDATES_MAX]


def _fitting(sizes: Iterable[int], size_bytes: int, count: int) -> dict[int, None]:
    return dict.fromkeys(size for size in sizes if size > 0 and -(-size_bytes // size) == count)


# -- The state of the object under a key -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """What is stored under a key now.

    Attributes:
        size_bytes: of the object.
        etag: without quotes, or "" (local files).
        modified: timezone-aware, or None.
        checksums: known full-object checksums, by algorithm, base64.
        composites: checksums of part checksums, by algorithm ("value-N"); they prove something where the size of the
            parts is known.
        looked_closely: True after a HEAD (or a read): the destination has no further information.
        part_size_bytes: size of the first part of a multipart object, or None where unknown.
        etag_is_md5: False where encryption makes the ETag something else (SSE-KMS, SSE-C).
        outdated: why the object has to be replaced even if its bytes are the same ("encryption differs"), or "".
        described_by: who has the values: the server, or the object's receipt (integrity/promises.py).
        keeps_mtime: True where `modified` is the source's own time (local copies keep it), not the time of storing.
    """

    size_bytes: int
    etag: str = ""
    modified: datetime | None = None
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    looked_closely: bool = False
    part_size_bytes: int | None = None
    etag_is_md5: bool = True
    keeps_mtime: bool = False
    outdated: str = ""
    composites: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    described_by: Literal["server", "receipt"] = "server"


# -- Decision: to upload, to skip, or to compare first -----------------------------------------------------------------

_BY_COST: tuple[ChecksumAlgorithm, ...] = ("CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5")
UNCHANGED_REASON = "unchanged since it was published"
SIZE_DIFFERS, CHECKSUM_DIFFERS = "size differs", "checksum differs"
NOT_THERE = "not there"
NOTHING_TO_COMPARE = "nothing to compare"
"""The reason to send content of the object's size, where the destination has neither checksum nor MD5."""
SIZE_IS_EQUAL = "size is equal"
"""The reason of a skip under overwrite="size"."""
IS_THERE = "is there already"
"""The reason of a skip under overwrite="never"."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Upload:
    """The file has to be sent. `reason` is one phrase for a person."""

    reason: str

    @property
    def differs(self) -> bool:
        """Whether the stored object is known to have other content."""
        return self.reason in (SIZE_DIFFERS, CHECKSUM_DIFFERS)


@dataclass(frozen=True, slots=True)
class SkipIt:
    """The file need not be sent. `reason` is one phrase for a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class LookCloser:
    """The information does not suffice: look at the destination with `closely=True`, then decide again."""


@dataclass(frozen=True, slots=True)
class CompareWith:
    """The digests to compute from the file; `same` and `conclude` compare them with the stored object.

    Attributes:
        algorithms: full-object checksums; MD5 may stand for the plain ETag.
        part_sizes_bytes: part sizes of the multipart ETags to try, where there is no full-object checksum. Both are
            empty where it suffices that the file can be read and is empty.
        composite: the algorithm of the checksum of part checksums to compute, with the one part size, instead of ETags.
        final: False where encryption may cause a difference, so that a closer look may still find the same content.
    """

    algorithms: tuple[ChecksumAlgorithm, ...] = ()
    part_sizes_bytes: tuple[int, ...] = ()
    final: bool = True
    composite: ChecksumAlgorithm | None = None


Decision = Upload | SkipIt | LookCloser | CompareWith


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """The digests of a file's content: full-object checksums, and multipart ETags by part size in bytes."""

    checksums: Mapping[ChecksumAlgorithm, Checksum] = field(default_factory=dict)
    etags: Mapping[int, str] = field(default_factory=dict)
    composite: Checksum | None = None


def decide(
    existing: Existing | None,
    *,
    policy: Overwrite,
    size_bytes: int,
    mtime_ns: int,
    wanted: ChecksumAlgorithm | None,
    cheap_md5_bytes_max: int,
    part_sizes: Sequence[int] = (),
    published_etag: str = "",
) -> Decision:
    """Whether a file has to be sent, as far as that is known without reading it.

    Args:
        existing: the object stored under the key, or None.
        policy: the `overwrite` option.
        size_bytes, mtime_ns: of the file.
        wanted: the algorithm of this run, preferred in comparisons because its value is used afterwards.
        cheap_md5_bytes_max: size up to which files are compared with a plain ETag before the destination is asked
            again.
        part_sizes: part sizes in bytes to try first on a multipart ETag (those of this run's plan).
        published_etag: the object's ETag after this file was published, or "": while it is unchanged, so is the
            content.
    """
    if policy == "always":
        return Upload("always")
    if existing is None:
        return Upload(NOT_THERE)
    if policy == "never":
        return SkipIt(IS_THERE)
    if (differs := _differs(existing, size_bytes)) is not None:
        return differs
    match policy:
        case "size":
            decision: Decision = SkipIt(SIZE_IS_EQUAL)
        case "size-mtime":
            decision = _by_time(existing, mtime_ns)
        case "checksum" | "journal" if published_etag and existing.etag == published_etag:
            decision = SkipIt("same ETag as when it was published")
        case "checksum" | "journal":
            decision = _by_content(existing, size_bytes, wanted, cheap_md5_bytes_max, part_sizes)
        case _:
            assert_never(policy)
    return decision


def decide_unread(
    existing: Existing | None, *, policy: Overwrite, size_bytes: int | None, checksum: Checksum | None
) -> Upload | SkipIt | LookCloser:
    """Whether content has to be sent that cannot be read before: it is compared by what is known of it.

    Args:
        existing, policy: as in `decide`. `unread_looks` says whether the object matters at all.
        size_bytes, checksum: of the content, or None where they are not known.
    """
    if policy == "always":
        return Upload("always")
    if existing is None:
        return Upload(NOT_THERE)
    if policy == "never":
        return SkipIt(IS_THERE)
    if (differs := _differs(existing, size_bytes)) is not None:
        return differs
    if policy == "size" and size_bytes is not None:
        return SkipIt(SIZE_IS_EQUAL)
    if checksum is None or policy in ("size", "size-mtime"):
        return Upload(NOTHING_TO_COMPARE)
    plain = checksum.algorithm == "MD5" and existing.etag_is_md5 and etag_md5(existing.etag) is not None
    if plain or _stored_checksum(existing, checksum.algorithm) is not None:
        return SkipIt("same checksum") if _agrees(existing, checksum) else Upload(CHECKSUM_DIFFERS)
    return Upload(NOTHING_TO_COMPARE) if existing.looked_closely else LookCloser()


def _differs(existing: Existing, size_bytes: int | None) -> Upload | None:
    """The decision where the object's options or its size differ; `size_bytes` is None where the content's is not
    known."""
    if existing.outdated:
        return Upload(existing.outdated)
    if size_bytes is not None and existing.size_bytes != size_bytes:
        return Upload(SIZE_DIFFERS)
    return None


def unread_looks(policy: Overwrite, size_bytes: int | None, checksum: Checksum | None) -> bool:
    """Whether `decide_unread` needs the existing object."""
    known = {"never": True, "size": size_bytes is not None, "checksum": checksum is not None}
    return known.get("checksum" if policy == "journal" else policy, False)


def _by_time(existing: Existing, mtime_ns: int) -> Decision:
    if existing.modified is None:
        return Upload("age is unknown") if existing.looked_closely else LookCloser()
    stored_ns = (existing.modified - _EPOCH) // timedelta(microseconds=1) * 1000
    if existing.keeps_mtime:
        # A kept modification time was rounded to microseconds.
        newer = mtime_ns // 1000 * 1000 > stored_ns
    elif existing.modified.microsecond:
        newer = mtime_ns > stored_ns
    else:
        # S3 truncates LastModified to whole seconds, and some file systems truncate mtime: two equal whole seconds may
        # hide an edit made after the upload.
        newer = mtime_ns >= stored_ns
    return Upload("source is newer") if newer else SkipIt("size is equal and the source is not newer")


def _by_content(
    existing: Existing,
    size_bytes: int,
    wanted: ChecksumAlgorithm | None,
    cheap_md5_bytes_max: int,
    part_sizes: Sequence[int],
) -> Decision:
    if size_bytes == 0:
        # No digest is needed, but only reading proves that the file is empty.
        return CompareWith()
    for algorithm in (wanted, *_BY_COST):
        if algorithm is not None and _stored_checksum(existing, algorithm) is not None:
            return CompareWith((algorithm,))
    if existing.part_size_bytes is not None:
        for algorithm in _BY_COST:
            if algorithm in COMPOSITE_ALGORITHMS and algorithm in existing.composites:
                return CompareWith(part_sizes_bytes=(existing.part_size_bytes,), composite=algorithm)
    plain = existing.etag_is_md5 and etag_md5(existing.etag) is not None
    if not existing.looked_closely:
        cheap = plain and size_bytes <= cheap_md5_bytes_max
        return CompareWith(("MD5",), final=False) if cheap else LookCloser()
    if plain:
        return CompareWith(("MD5",))
    if existing.etag_is_md5:
        sizes = candidate_part_sizes(existing.etag, size_bytes, known=existing.part_size_bytes, preferred=part_sizes)
        if sizes:
            return CompareWith(part_sizes_bytes=sizes)
    return Upload(NOTHING_TO_COMPARE)


def _stored_checksum(existing: Existing, algorithm: ChecksumAlgorithm) -> str | None:
    value = existing.checksums.get(algorithm)
    return None if value is None or is_composite(value) else value


def same(compare: CompareWith, existing: Existing, digests: Digests) -> bool:
    """Whether the stored object has the file's content, by every digest that `compare` names.

    Raises:
        KeyError: `digests` lacks an algorithm of `compare`.
    """
    if not compare.algorithms and not compare.part_sizes_bytes:
        return True
    if compare.algorithms:
        return all(_agrees(existing, digests.checksums[algorithm]) for algorithm in compare.algorithms)
    if compare.composite is not None:
        return digests.composite is not None and existing.composites.get(compare.composite) == digests.composite.value
    return existing.etag.lower() in digests.etags.values()


def _agrees(existing: Existing, found: Checksum) -> bool:
    stored = _stored_checksum(existing, found.algorithm)
    if stored is None and found.algorithm == "MD5" and existing.etag_is_md5:
        md5 = etag_md5(existing.etag)
        stored = None if md5 is None else base64.b64encode(md5).decode("ascii")
    return stored == found.value


def conclude(compare: CompareWith, existing: Existing, digests: Digests) -> Upload | SkipIt | LookCloser:
    """The decision after a comparison.

    LookCloser follows only from a comparison that was not final, and at most once: after the closer look, `decide`
    gives a final one.
    """
    if same(compare, existing, digests):
        how = "same multipart ETag" if compare.part_sizes_bytes else "both are empty"
        return SkipIt("same checksum" if compare.algorithms or compare.composite else how)
    if not compare.final and not existing.looked_closely:
        return LookCloser()
    return Upload(CHECKSUM_DIFFERS)


class SamenessDigester:
    """All digests of a CompareWith, in one pass over the pieces of a file."""

    def __init__(self, compare: CompareWith) -> None:
        self._digester = Digester(compare.algorithms)
        self._algorithms = compare.algorithms
        self._parts: _PartDigests | None = None
        self._etags: dict[int, _PartDigests] = {}
        if compare.composite is not None:
            self._parts = _PartDigests(compare.composite, compare.part_sizes_bytes[0])
        else:
            self._etags = {size: _PartDigests("MD5", size) for size in compare.part_sizes_bytes}

    def update(self, piece: ByteBody) -> None:
        """Add the next piece; pieces need not end where parts end."""
        self._digester.update(piece)
        for etag in self._etags.values():
            etag.update(piece)
        if self._parts is not None:
            self._parts.update(piece)

    def digests(self) -> Digests:
        """The digests of the pieces so far."""
        return Digests(
            checksums={algorithm: self._digester.result(algorithm) for algorithm in self._algorithms},
            etags={size: etag.etag() for size, etag in self._etags.items()},
            composite=self._parts.checksum() if self._parts is not None else None,
        )


class _PartDigests:
    """The checksums of parts of one size, computed piece by piece, and what S3 makes of them."""

    def __init__(self, algorithm: ChecksumAlgorithm, part_size_bytes: int) -> None:
        self._algorithm: ChecksumAlgorithm = algorithm
        self._part_size_bytes = part_size_bytes
        self._done: list[Checksum] = []
        self._running = Digester((algorithm,))
        self._room = part_size_bytes

    def update(self, piece: ByteBody) -> None:
        view = memoryview(piece)
        while view.nbytes:
            if not self._room:
                self._done.append(self._running.result(self._algorithm))
                self._running = Digester((self._algorithm,))
                self._room = self._part_size_bytes
            head = view[: self._room]
            self._running.update(head)
            self._room -= head.nbytes
            view = view[head.nbytes :]

    def checksum(self) -> Checksum:
        return composite(self._algorithm, (*self._done, self._running.result(self._algorithm)))

    def etag(self) -> str:
        return multipart_etag(digest_of(each) for each in (*self._done, self._running.result(self._algorithm)))


def confirm(
    sent: Checksum | None,
    answered: Checksum | None,
    etag: str,
    compute: Callable[[ChecksumAlgorithm], Checksum | None] | None,
    etag_is_md5: bool,
    *,
    where: str = "the object",
) -> ConfirmedBy:
    """The proof in the server's answer to a PutObject or UploadPart.

    Args:
        sent: the checksum sent with the body, or None.
        answered: the checksum in the answer, or None; it may be of an algorithm of the server's choice.
        etag: the server's, without quotes.
        compute: the body's checksum by any algorithm, or None where it is unknown; called only where no other proof
            exists. None where the body is not available.
        etag_is_md5: whether a plain ETag is the body's MD5 (no SSE-KMS, no SSE-C).
        where: for the message: the key, or "part 3 of" the key.

    Returns:
        "server-checksum", "etag", or "nothing" (the object is then worth a HEAD). An equal checksum is the whole proof:
        an ETag that differs beside it is not an MD5.

    Raises:
        IntegrityError: the answer contradicts what was sent.
    """
    told = {answered.algorithm: answered.value} if answered is not None else {}
    return compare_told(
        told, etag, partial(checksum_by, sent, compute), etag_is_md5=etag_is_md5, where=where, otherwise="nothing"
    )


def checksum_by(
    sent: Checksum | None,
    compute: Callable[[ChecksumAlgorithm], Checksum | None] | None,
    algorithm: ChecksumAlgorithm,
) -> Checksum | None:
    """The body's checksum by `algorithm`: the one that was sent, else a computed one, else None."""
    if sent is not None and sent.algorithm == algorithm:
        return sent
    return compute(algorithm) if compute is not None else None


def compare_told(
    checksums: Mapping[ChecksumAlgorithm, str],
    etag: str,
    ours: Callable[[ChecksumAlgorithm], Checksum | None],
    *,
    etag_is_md5: bool,
    where: str,
    otherwise: ConfirmedBy,
) -> ConfirmedBy:
    """Compare all checksums and the ETag in a server's answer with ours.

    Args:
        checksums: in the server's notation; checksums of part checksums are not compared here.
        ours: our checksum by an algorithm, or None where it is unknown.
        otherwise: the result where nothing could be compared.

    Raises:
        IntegrityError: one of them contradicts.
    """
    proved = False
    for algorithm, value in checksums.items():
        known = None if is_composite(value) else ours(algorithm)
        if known is None or is_composite(known.value):
            continue
        if known.value != value:
            raise contradiction(where, str(known), f"{algorithm}:{value}")
        proved = True
    if proved:
        return "server-checksum"
    stored_md5 = etag_md5(etag) if etag_is_md5 else None
    md5 = ours("MD5") if stored_md5 is not None else None
    if md5 is None:
        return otherwise
    if digest_of(md5) != stored_md5:
        raise contradiction(where, f"ETag {digest_of(md5).hex()}", f"ETag {etag}")
    return "etag"


def contradiction(where: str, expected: str, actual: str) -> IntegrityError:
    """The error for an answer or object that differs from what was sent."""
    return IntegrityError(
        f"The server stored other bytes for {where} than were sent: {expected} was sent, it answered {actual}. "
        "Export it again; if that repeats, suspect the network or a proxy on the way.",
        expected=expected,
        actual=actual,
    )


# -- Pure: proof that received bytes are the object that the server described ------------------------------------------
# The strongest description counts: the full-object checksum, else an ETag that is an MD5 (of the bytes, or of the MD5s
# of parts of known or usual size), else the size. Source: S3 User Guide, "Checking object integrity".

Proof = tuple[Checksum | None, ConfirmedBy]
"""The compared checksum, if there was one, and the kind of proof."""


def comparison(existing: Existing) -> CompareWith | None:
    """The digests to compute from the bytes, or None where only their number can be compared."""
    decision = decide(
        existing, policy="checksum", size_bytes=existing.size_bytes, mtime_ns=0, wanted=None, cheap_md5_bytes_max=0
    )
    if isinstance(decision, CompareWith) and (decision.algorithms or decision.part_sizes_bytes):
        return decision
    return None


def prove(existing: Existing, pieces: Iterable[ByteBody], where: str, *, received_before: str = "") -> Proof:
    """Compare all bytes of an object, in order, with the server's description of it.

    Args:
        existing: looked at closely; its size was compared already.
        where: for the message: the object's URL.
        received_before: `actual` of the IntegrityError of the previous attempt, or "".

    Raises:
        IntegrityError: they differ, or may differ: where only usual part sizes could be tried on a multipart ETag, the
            same bytes have to be received twice before their size counts as proof.
    """
    compare = comparison(existing)
    if compare is None:
        return None, "receipt" if existing.described_by == "receipt" and not existing.size_bytes else "size"
    digester = SamenessDigester(compare)
    for piece in pieces:
        digester.update(piece)
    return conclude_proof(existing, compare, digester.digests(), where, received_before=received_before)


def conclude_proof(
    existing: Existing, compare: CompareWith, digests: Digests, where: str, *, received_before: str = ""
) -> Proof:
    """As `prove`, for digests that are known already."""
    found = digests.checksums.get(compare.algorithms[0]) if compare.algorithms else digests.composite
    known = existing.composites if compare.composite else existing.checksums
    told = known.get(found.algorithm) if found is not None else None
    by_receipt = existing.described_by == "receipt"
    if same(compare, existing, digests):
        return found, "receipt" if by_receipt else "server-checksum" if told is not None else "etag"
    expected = f"{found.algorithm}:{told}" if found is not None and told is not None else f"ETag {existing.etag}"
    actual = str(found) if found is not None else "ETag " + " or ".join(digests.etags.values())
    if found is None and not _part_sizes_are_sure(existing) and actual == received_before:
        # None of the tried part sizes gives this ETag, and bytes that arrived twice are those of the server.
        return None, "size"
    described = "that the manifest lists" if by_receipt else "the server described"
    raise IntegrityError(
        f"The bytes received for {where} are not those {described}: {expected} was expected, they have {actual}. Get "
        "it again; if that repeats, suspect the network, a proxy on the way, or the server's disks.",
        expected=expected,
        actual=actual,
    )


def _part_sizes_are_sure(existing: Existing) -> bool:
    """Whether the ETag cannot result from other part sizes than those tried."""
    return parts_of_etag(existing.etag) == 1 or existing.part_size_bytes is not None
