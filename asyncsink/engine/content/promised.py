"""What a caller promises of a stream, its length and its checksum, compared before the object is published. Pure."""

from __future__ import annotations

from asyncsink.errors import ConfigError, IntegrityError
from asyncsink.integrity.checksums import ByteBody, Digester, digest_of
from asyncsink.model import Checksum
from asyncsink.routing.keys import show


class PromisedContent:
    """The promise, and the content so far.

    Args:
        key: for messages.
        size_bytes, checksum: of the whole content, or None.

    Raises:
        ConfigError: they cannot be those of any content.
    """

    def __init__(self, key: str, size_bytes: int | None, checksum: Checksum | None) -> None:
        if size_bytes is not None and (type(size_bytes) is not int or size_bytes < 0):
            raise ConfigError(f"size_bytes={size_bytes!r} is no length; expected a number of bytes from 0, or None.")
        if checksum is not None:
            if not isinstance(checksum, Checksum):
                raise ConfigError(
                    f"checksum is of type {type(checksum).__name__}; expected asyncsink.Checksum(algorithm, value)."
                )
            try:
                digest_of(checksum)
            except ValueError as error:
                raise ConfigError(f"checksum={checksum} cannot be compared: {error}") from error
        self.key = key
        self.size_bytes = size_bytes
        self.checksum = checksum
        self.received_bytes = 0
        self._digester = Digester([checksum.algorithm] if checksum is not None else [])

    def __repr__(self) -> str:
        return f"<PromisedContent of {self.key!r}, {self.received_bytes} bytes so far>"

    def receive(self, length: int) -> None:
        """Count bytes that are about to be taken.

        Raises:
            IntegrityError: they are too many.
        """
        self.received_bytes += length
        if self.size_bytes is not None and self.received_bytes > self.size_bytes:
            raise self._other(f"{self.size_bytes:,} bytes", f"{self.received_bytes:,} bytes or more")

    def digest(self, body: ByteBody) -> None:
        """Add the next bytes, in order. Takes as long as a checksum."""
        self._digester.update(body)

    def check_whole(self) -> None:
        """Compare the content, which is whole.

        Raises:
            IntegrityError: it is not what was promised.
        """
        if self.size_bytes is not None and self.received_bytes != self.size_bytes:
            raise self._other(f"{self.size_bytes:,} bytes", f"{self.received_bytes:,} bytes")
        if self.checksum is not None:
            found = self._digester.result(self.checksum.algorithm)
            if found != self.checksum:
                raise self._other(str(self.checksum), str(found))

    def _other(self, expected: str, actual: str) -> IntegrityError:
        return IntegrityError(
            f"The stream for {show(self.key)} has {actual}, and {expected} were promised; nothing was published. Send "
            "it again, or correct `size_bytes` and `checksum`.",
            expected=expected,
            actual=actual,
        )
