"""Whose object it is: write tokens tell a write of ours whose answer was lost from a write of somebody else."""

from __future__ import annotations

from secrets import token_hex

from asyncsink.config import WRITE_TOKEN_CHARACTERS


def fresh_token() -> str:
    """A write token that no other write has: 128 random bits as hexadecimal digits."""
    return token_hex(WRITE_TOKEN_CHARACTERS // 2)
