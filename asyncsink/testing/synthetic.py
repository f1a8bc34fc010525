"""Synthetic bodies for tests and benchmarks: reproducible from a seed, incompressible, and made without a file.

bodies = Bodies("lognormal:16KiB:1.2", seed=1)
receipt = await sink.put_bytes("object-7", bodies.body(7))
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from asyncsink.errors import ConfigError
from asyncsink.options.settings import MIB
from asyncsink.options.values import parse_size

_BLOCK_BYTES: Final = 1 * MIB
_PIECE_BYTES: Final = 1 * MIB
_SIZES_MAX: Final = 1_000_000
"""Most sizes in a file."""
_LOGNORMAL_MAX: Final = 1000.0
"""A size is at most so many times the median: one draw in a billion must not decide a benchmark."""


class Bodies:
    """The bodies of numbered objects. The same sizes and seed give the same bytes, in any order.

    Attributes:
        sizes: as it was given.
        seed: of sizes and contents.
    """

    def __init__(self, sizes: str, seed: int = 1) -> None:
        """Describe the bodies.

        Args:
            sizes: "16KiB"; "lognormal:16KiB:1.2" (median, and sigma of the logarithm); or the path of a text file with
                one size a line, drawn at random.
            seed: a whole number.

        Raises:
            ConfigError: the sizes are none of these, or the file cannot be read.
        """
        self.sizes = sizes
        self.seed = seed
        self._draw = _drawing(sizes)
        # Twice, so that a piece may begin anywhere in the first half.
        self._block = memoryview(random.Random(seed).randbytes(_BLOCK_BYTES) * 2)

    def __repr__(self) -> str:
        return f"Bodies({self.sizes!r}, seed={self.seed})"

    def size_bytes(self, number: int) -> int:
        """The size of a body."""
        return self._draw(random.Random(f"{self.seed} {number}"))

    def body(self, number: int) -> bytes:
        """A whole body; no two of 16 bytes or more are equal."""
        size = self.size_bytes(number)
        if size <= _PIECE_BYTES:
            return self._piece(number, 0, size)
        return b"".join(self._piece(number, at, min(_PIECE_BYTES, size - at)) for at in range(0, size, _PIECE_BYTES))

    async def stream(self, number: int) -> AsyncIterator[bytes]:
        """The same body in pieces of up to 1 MiB, for what memory should not hold."""
        size = self.size_bytes(number)
        for at in range(0, size, _PIECE_BYTES):
            yield self._piece(number, at, min(_PIECE_BYTES, size - at))

    def _piece(self, number: int, at: int, length: int) -> bytes:
        start = (number * 7919 + at * 31) % _BLOCK_BYTES
        mark = (number << 64 | at).to_bytes(16, "big")
        return mark[:length] + bytes(self._block[start : start + max(0, length - 16)])


def _drawing(sizes: str) -> Callable[[random.Random], int]:
    kind, _, rest = sizes.partition(":")
    if kind == "lognormal":
        median, _, sigma = rest.partition(":")
        try:
            spread = float(sigma)
        except ValueError:
            spread = math.nan
        if not 0 <= spread <= 5:
            raise ConfigError(
                f"sizes={sizes!r} has no spread; expected lognormal:MEDIAN:SIGMA with SIGMA from 0 to 5, such as "
                "lognormal:16KiB:1.2."
            )
        middle = parse_size(median, "sizes")
        return lambda dice: max(1, round(middle * min(_LOGNORMAL_MAX, dice.lognormvariate(0, spread))))
    if sizes[:1].isdigit():
        size = parse_size(sizes, "sizes")
        return lambda _: size
    listed = _listed(sizes)
    return lambda dice: dice.choice(listed)


def _listed(path: str) -> Sequence[int]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file.readlines(64 * _SIZES_MAX) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"sizes={path!r} is no size, and no file that can be read ({why}); expected 16KiB, lognormal:16KiB:1.2, or "
            "a text file with one size a line."
        ) from error
    if not lines or len(lines) > _SIZES_MAX:
        raise ConfigError(f"The file of sizes {path!r} has {len(lines):,} lines; expected 1 to {_SIZES_MAX:,}.")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse_size(int(line) if line.isdigit() else line, "size"))
        except ConfigError as error:
            raise ConfigError(f"The file of sizes {path!r}, line {number}: {error}") from error
    return found
