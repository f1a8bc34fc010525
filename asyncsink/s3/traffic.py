"""Requests counted where they are sent, for the report and for displays."""

from __future__ import annotations

from asyncsink.value import dataclass


@dataclass(slots=True)
class Traffic:
    """Requests to S3.

    Attributes:
        requests: sent so far, repeated ones included.
        retries: of these, the ones that repeat an earlier one.
        small_stored: small files that lanes have stored, counted as answers come. Lanes count at the same time, so that
            one may be missing; that it grows is certain.
    """

    requests: int = 0
    retries: int = 0
    small_stored: int = 0
