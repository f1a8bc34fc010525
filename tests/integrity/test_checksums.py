"""Checksums against published vectors, against other implementations, and against themselves in pieces."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncsink.integrity.checksums import (
    COMPOSITE_ALGORITHMS,
    FULL_OBJECT_ALGORITHMS,
    Digester,
    checksum_of,
    combine,
    composite,
    digest_of,
    etag_md5,
    is_composite,
    multipart_etag,
)
from asyncsink.model import Checksum
from asyncsink.options.settings import ChecksumAlgorithm

ALGORITHMS: tuple[ChecksumAlgorithm, ...] = get_args(ChecksumAlgorithm)

# The "check" values (of the nine ASCII digits) of the catalogue of parametrised CRC algorithms; FIPS 180-2's and
# RFC 1321's own test suites for the other two.
VECTORS: list[tuple[ChecksumAlgorithm, bytes, str]] = [
    ("CRC64NVME", b"123456789", "ae8b14860a799888"),
    ("CRC32C", b"123456789", "e3069283"),
    ("CRC32", b"123456789", "cbf43926"),
    ("SHA256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("MD5", b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    ("CRC64NVME", b"", "0000000000000000"),
    ("CRC32C", b"", "00000000"),
    ("CRC32", b"", "00000000"),
    ("CRC32C", bytes(32), "8a9136aa"),  # RFC 3720, B.4
    ("CRC32C", b"\xff" * 32, "62a8ab43"),
]


def crc64nvme_bit_by_bit(data: bytes) -> int:
    """CRC-64/NVME as its specification has it: reflected 0xad93d23594c93659, all ones before and after."""
    value = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
    return value ^ 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize(("algorithm", "data", "expected"), VECTORS)
def test_published_vectors(algorithm: ChecksumAlgorithm, data: bytes, expected: str) -> None:
    checksum = checksum_of(data, algorithm)
    assert checksum == Checksum(algorithm, base64.b64encode(bytes.fromhex(expected)).decode())
    assert digest_of(checksum).hex() == expected


@given(st.binary(max_size=300))
def test_crcs_agree_with_other_implementations(data: bytes) -> None:
    assert digest_of(checksum_of(data, "CRC32")) == zlib.crc32(data).to_bytes(4, "big")
    assert digest_of(checksum_of(data, "CRC64NVME")) == crc64nvme_bit_by_bit(data).to_bytes(8, "big")


@given(st.lists(st.binary(max_size=200), max_size=8))
@example([])
@example([b"", b""])
def test_pieces_give_the_same_as_the_whole(pieces: list[bytes]) -> None:
    digester = Digester(ALGORITHMS)
    for number, piece in enumerate(pieces):
        digester.update((memoryview(piece), bytearray(piece), piece)[number % 3])
    whole = b"".join(pieces)
    for algorithm in ALGORITHMS:
        assert digester.result(algorithm) == checksum_of(whole, algorithm)


def test_a_result_does_not_end_a_digester() -> None:
    digester = Digester(["CRC64NVME", "SHA256"])
    digester.update(b"one")
    assert digester.result("SHA256") == digester.result("SHA256") == checksum_of(b"one", "SHA256")
    digester.update(b"two")
    assert digester.result("CRC64NVME") == checksum_of(b"onetwo", "CRC64NVME")


@pytest.mark.parametrize("algorithm", sorted(FULL_OBJECT_ALGORITHMS))
@given(pieces=st.lists(st.binary(max_size=200), max_size=10))
@example(pieces=[])
@example(pieces=[b"", b"x", b""])
def test_combined_parts_give_the_whole(algorithm: ChecksumAlgorithm, pieces: list[bytes]) -> None:
    parts = [(checksum_of(piece, algorithm), len(piece)) for piece in pieces]
    assert combine(algorithm, parts) == checksum_of(b"".join(pieces), algorithm)


@pytest.mark.parametrize("algorithm", sorted(FULL_OBJECT_ALGORITHMS))
def test_lengths_beyond_32_bits_combine(algorithm: ChecksumAlgorithm) -> None:
    # 6 GiB of zeros, once in 6 parts of 1 GiB and once in two parts of 3 GiB; 1 GiB from 1 MiB, so that little is read.
    def zeros(part: Checksum, length: int, times: int) -> tuple[Checksum, int]:
        return combine(algorithm, [(part, length)] * times), length * times

    gib = zeros(checksum_of(bytes(1 << 20), algorithm), 1 << 20, 1024)
    three = zeros(*gib, 3)
    head = (checksum_of(b"head", algorithm), 4)
    assert combine(algorithm, [head, zeros(*gib, 6)]) == combine(algorithm, [head, three, three])


@pytest.mark.parametrize("algorithm", ["SHA256", "MD5"])
def test_what_cannot_be_combined_is_refused(algorithm: ChecksumAlgorithm) -> None:
    with pytest.raises(ValueError, match="say nothing about the whole"):
        combine(algorithm, [])


def test_parts_of_another_algorithm_are_refused() -> None:
    part = checksum_of(b"x", "CRC32")
    with pytest.raises(ValueError, match="a part has a CRC32 checksum; CRC32C was expected"):
        combine("CRC32C", [(part, 1)])
    with pytest.raises(ValueError, match="SHA256 was expected"):
        composite("SHA256", [part])


@pytest.mark.parametrize("value", ["", "AAAA", "not base64!", "AAAAAAAAAAA=-3", "é"])
def test_a_value_that_is_no_digest_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is no base64 of a CRC64NVME digest"):
        digest_of(Checksum("CRC64NVME", value))


def test_an_unknown_algorithm_is_refused() -> None:
    for use in (
        lambda: checksum_of(b"", "SHA3"),  # type: ignore[arg-type]
        lambda: Digester(["SHA3"]),  # type: ignore[list-item]
    ):
        with pytest.raises(ValueError, match="'SHA3' is not known; expected one of CRC64NVME"):
            use()
    with pytest.raises(ValueError, match="'MD5' is not among"):
        Digester(["SHA256"]).result("MD5")


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_composites_are_checksums_of_part_checksums(pieces: list[bytes]) -> None:
    sha = hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).digest()
    found = composite("SHA256", [checksum_of(piece, "SHA256") for piece in pieces])
    assert found.value == f"{base64.b64encode(sha).decode()}-{len(pieces)}"
    crc = zlib.crc32(b"".join(zlib.crc32(piece).to_bytes(4, "big") for piece in pieces)).to_bytes(4, "big")
    found = composite("CRC32", [checksum_of(piece, "CRC32") for piece in pieces])
    assert found.value == f"{base64.b64encode(crc).decode()}-{len(pieces)}"
    assert is_composite(found.value)
    assert not is_composite(checksum_of(pieces[0], "SHA256").value)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - COMPOSITE_ALGORITHMS))
def test_composites_that_s3_does_not_define_are_refused(algorithm: ChecksumAlgorithm) -> None:
    with pytest.raises(ValueError, match="S3 defines no composite"):
        composite(algorithm, [])


def test_a_multipart_etag() -> None:
    # Two parts, "a" and "b", computed with md5sum and xxd.
    md5s = [bytes.fromhex("0cc175b9c0f1b6a831c399e269772661"), bytes.fromhex("92eb5ffee6ae2fec3ad71c777531578f")]
    assert multipart_etag(md5s) == "96e024ba2074fe77e8e965ba43a704be-2"
    assert multipart_etag(iter(md5s[:1])).endswith("-1")


@pytest.mark.parametrize(
    ("etag", "known"),
    [
        ("0cc175b9c0f1b6a831c399e269772661", True),
        ("0CC175B9C0F1B6A831C399E269772661", True),
        ("0cc175b9c0f1b6a831c399e269772661-1", False),
        ('"0cc175b9c0f1b6a831c399e269772661"', False),
        ("0cc175b9c0f1b6a831c399e26977266", False),
        ("0cc175b9c0f1b6a831c399e269772661\n", False),
        ("", False),
    ],
)
def test_plain_etags(etag: str, known: bool) -> None:
    assert etag_md5(etag) == (hashlib.md5(b"a", usedforsecurity=False).digest() if known else None)
