"""Standard input that can be given up: a thread that waits for the next line must not hold up Ctrl-C."""

from __future__ import annotations

import io
import os
import selectors
import sys
from typing import Self

from asyncsink.errors import ConfigError


class InterruptibleStdin(io.RawIOBase):
    """A descriptor whose readers are sent home (with an end of file) by `give_up`. Not closed by us."""

    def __init__(self, descriptor: int) -> None:
        """Read from `descriptor`, which must be open for reading."""
        super().__init__()
        self._descriptor = descriptor
        self._wake, self._waker = os.pipe()

    @classmethod
    def open(cls) -> Self:
        """The process's standard input.

        Raises:
            ConfigError: the process has none.
        """
        try:
            return cls(sys.stdin.fileno())
        except (AttributeError, ValueError, OSError) as error:
            raise ConfigError("SOURCE is -, but standard input is closed; pipe JSON lines into the command.") from error

    def give_up(self) -> None:
        """From now on there is nothing more to read."""
        os.write(self._waker, b"x")

    def fileno(self) -> int:
        """The descriptor that is read."""
        return self._descriptor

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Wait for bytes; 0 at the end, and after `give_up`. A regular file is always ready."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        with selectors.SelectSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select()}
        if self._wake in ready:
            return 0
        return os.readv(self._descriptor, [target])
