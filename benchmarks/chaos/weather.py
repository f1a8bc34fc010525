"""The way to the server during a soak: credentials that end every few hundred requests, and faults that come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from asyncsink.devserver.seaweedfs import REGION
from asyncsink.options.settings import Secret
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FAULTS, HARMLESS, OF_COMPLETE, FaultProxy, Rule
from asyncsink.testing.peers import AdmittingProxy, Asked, Identity, refusal
from benchmarks.servers.running import RunningServer

REQUESTS_PER_CREDENTIALS: Final = 500
PHASES: Final = (("fair", 0.3), ("faults", 0.3), ("SlowDown", 0.1), ("faults", 0.3))
"""Shares of a cycle, one after the other. It is short, so that each third of a soak has all of them."""
CYCLE_SECONDS: Final = 20.0
T = TypeVar("T")
_EXPIRED: Final = refusal(400, "ExpiredToken")


def phase_at(seconds: float) -> str:
    """Which weather it is so long after the beginning. Pure."""
    place = seconds % CYCLE_SECONDS / CYCLE_SECONDS
    for name, share in PHASES:
        if place < share:
            return name
        place -= share
    return PHASES[-1][0]


def rules_for(phase: str) -> tuple[Rule, ...]:
    """What befalls requests meanwhile: a tenth of them something, or half of them SlowDown."""
    if phase == "SlowDown":
        return (Rule(s.SLOW_DOWN, probability=0.5),)
    if phase == "fair":
        return ()
    return (
        Rule(*OF_COMPLETE, operation="CompleteMultipartUpload", probability=0.3),
        # So rarely that one file hardly ever meets it twice on end, which is told as a failure.
        Rule(s.CorruptBody(), operation=("PutObject", "UploadPart"), probability=0.0005),
        Rule(*FAULTS, *HARMLESS, probability=0.1),
    )


class Issuer:
    """Gives out temporary credentials in a file, each of which the server takes for so many requests."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.number, self._used = 1, 0
        self._write()

    async def admit(self, asked: Asked) -> bytes | None:
        """The server's decision: the credentials of this moment will do."""
        if not asked.signed_by(_identity(self.number)):
            return _EXPIRED
        self._used += 1
        if self._used == REQUESTS_PER_CREDENTIALS:
            self.number, self._used = self.number + 1, 0
            self._write()
        return None

    def _write(self) -> None:
        now = _identity(self.number)
        beside = self._file.with_suffix(".next")
        beside.write_text(
            f"[default]\naws_access_key_id={now.access_key_id}\n"
            f"aws_secret_access_key={now.secret_access_key.reveal().decode()}\naws_session_token={now.session_token}\n"
        )
        beside.replace(self._file)


def _identity(number: int) -> Identity:
    return Identity(f"ASIASOAK{number}", Secret(f"soak-secret-{number}".encode()), f"token-{number}")


class Weather:
    """Both proxies, and what they did; nothing that they remember of single requests is kept.

    Attributes:
        endpoint_url: what clients connect to.
        requests: that came so far. faults: what befell them, by the toxic's name.
        expired: requests whose credentials had ended. rotations: how often credentials ended.
    """

    def __init__(self, faults: FaultProxy, admitting: AdmittingProxy, issuer: Issuer) -> None:
        self._faults, self._admitting, self._issuer = faults, admitting, issuer
        self.endpoint_url = faults.endpoint_url
        self.requests = self.expired = 0
        self.faults: Counter[str] = Counter()
        self._phase = "fair"

    @property
    def rotations(self) -> int:
        """See the class."""
        return self._issuer.number - 1

    @property
    def fault_count(self) -> int:
        """All faults so far."""
        return self.faults.total()

    def be(self, phase: str) -> None:
        """From now on it is so."""
        if phase != self._phase:
            self._phase, self._faults.rules = phase, rules_for(phase)

    def count(self) -> None:
        """Bring the numbers up to date, and let the proxies forget what is counted."""
        hits = _taken(self._faults.hits)
        self.faults.update(_name(hit.toxic) for hit in hits)
        self.requests += len(_taken(self._faults.requests))
        _taken(self._faults.answers)
        self.expired += len(_taken(self._admitting.refused))
        _taken(self._admitting.forwarded)
        _taken(self._admitting.arrivals)


@asynccontextmanager
async def weather_before(server: RunningServer, credentials: Path, seed: int) -> AsyncIterator[Weather]:
    """Stand before `server`, fair at first; `credentials` is the file that clients read theirs from."""
    known = Identity(server.access_key_id, Secret(server.secret_access_key.encode()))
    issuer = Issuer(credentials)
    async with AdmittingProxy(server.url, known, issuer.admit, region=REGION) as admitting:
        with FaultProxy(admitting.endpoint_url, seed=seed) as faults:
            yield Weather(faults, admitting, issuer)


def _taken(items: list[T]) -> list[T]:
    """Empty a list that another thread adds to; returns what was in it."""
    taken = items[:]
    del items[: len(taken)]
    return taken


def _name(toxic: t.Toxic) -> str:
    return toxic.code if isinstance(toxic, s.Status) else type(toxic).__name__
