"""Credentials that end in the middle of a run, as the server sees it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.errors import CredentialsError, ExpiredCredentials, PermanentError
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy, Secret
from asyncsink.s3.credentials.file import LOOK_UP_AGAIN_SECONDS, Credentials, SharedCredentials
from asyncsink.s3.operations import HeadObject
from asyncsink.s3.stack import open_stack
from asyncsink.testing.peers import ActingPeer, Asked, Identity, canned, refusal

pytestmark = pytest.mark.anyio
EXPIRED = refusal(400, "ExpiredToken")
LANES = ("wire", "aioboto3")
OPTIONS: dict[str, Any] = {"part_size_bytes": 5 * MIB, "overwrite": "always"}


def identity(number: int) -> Identity:
    return Identity(f"ASIA{number}", Secret(f"rotating-secret-{number}".encode()), f"token-{number}")


@dataclass
class Issuer:
    """Gives out credentials, each of which the server takes for so many requests."""

    lasts: int
    number: int = 1
    used: int = 0
    asked: int = 0
    seen: set[int] = field(default_factory=set)

    async def admit(self, asked: Asked) -> bytes | None:
        """The server's decision: exactly the credentials of this moment will do."""
        if not asked.signed_by(identity(self.number)):
            older = [n for n in range(1, self.number) if asked.signed_by(identity(n))]
            return EXPIRED if older else refusal(403, "SignatureDoesNotMatch")
        self.seen.add(self.number)
        self.used += 1
        if self.used == self.lasts:
            self.number, self.used = self.number + 1, 0
        return None

    def document(self) -> dict[str, Any]:
        """What a container's credentials endpoint or a credential process answers."""
        self.asked += 1
        now = identity(self.number)
        return {
            "Version": 1,
            "AccessKeyId": now.access_key_id,
            "SecretAccessKey": now.secret_access_key.reveal().decode(),
            "Token": now.session_token,
            "SessionToken": now.session_token,
            # Longer than the truth: nobody can know from it when they end.
            "Expiration": (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The credentials endpoint."""
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(canned(200, json.dumps(self.document()).encode(), "Content-Type: application/json"))
                await writer.drain()


@pytest.fixture
def issuer(keep_secret: Callable[[str], str]) -> Issuer:
    for number in range(1, 100):
        keep_secret(f"rotating-secret-{number}")
    return Issuer(lasts=25)


@pytest.mark.parametrize("lane", LANES)
async def test_a_run_outlives_its_containers_credentials(
    lane: str,
    issuer: Issuer,
    proxy: Any,
    tree: Path,
    bucket: str,
    all_there: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is asked for once, although many requests learn at the same time that it has ended; and once more by the
    SDK's client, which looks for uploads that a refused CreateMultipartUpload may have left."""
    async with ActingPeer(issuer.serve) as endpoint, proxy(issuer.admit) as way:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint.endpoint_url}/role")
        report = await asyncsink.export_directory(
            tree, f"s3://{bucket}", endpoint_url=way.endpoint_url, transport=lane, **OPTIONS
        )
    assert not report.failures
    assert report.transport == lane
    rotations = issuer.number - 1
    assert rotations >= 4
    assert issuer.seen >= set(range(1, rotations + 1))
    assert issuer.asked <= 2 * (1 + rotations)
    assert way.refused
    assert report.retries == len(way.refused)
    await asyncio.to_thread(_check, all_there)


async def test_keys_in_a_file_that_somebody_else_renews(
    issuer: Issuer,
    proxy: Any,
    tree: Path,
    bucket: str,
    all_there: Callable[[], bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The light resolver reads them without the SDK; the file is read again when the server says they have ended."""
    file = tmp_path / "credentials"

    def write() -> None:
        now = issuer.document()
        file.write_text(
            f"[default]\naws_access_key_id={now['AccessKeyId']}\naws_secret_access_key={now['SecretAccessKey']}\n"
            f"aws_session_token={now['SessionToken']}\n"
        )

    async def admit(asked: Asked) -> bytes | None:
        before = issuer.number
        answer = await issuer.admit(asked)
        if issuer.number != before:
            write()
        return answer

    write()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    async with proxy(admit) as way:
        report = await asyncsink.export_directory(tree, f"s3://{bucket}", endpoint_url=way.endpoint_url, **OPTIONS)
    assert (report.failures, report.transport) == ([], "wire")
    assert issuer.number > 4
    await asyncio.to_thread(_check, all_there)


def _check(all_there: Callable[[], bool]) -> None:
    assert all_there()


class Shelf:
    """A place where credentials are looked up; errors are raised."""

    def __init__(self, *found: Credentials | Exception) -> None:
        self.found = list(found)
        self.asked = 0

    async def __call__(self) -> Credentials:
        self.asked += 1
        await asyncio.sleep(0)
        one = self.found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one


def pair(number: int) -> Credentials:
    return Credentials(access_key_id=f"KEY{number}", secret_access_key=Secret(b"s"))


async def test_several_keyrings_share_one_look_up() -> None:
    shelf = Shelf(pair(2))
    shared = SharedCredentials(pair(1), shelf)
    wire, senders = shared.provider(), shared.provider()
    first = [await wire(), await senders()]
    second = await asyncio.gather(wire(), senders())
    assert [one.access_key_id for one in (*first, *second)] == ["KEY1", "KEY1", "KEY2", "KEY2"]
    assert shelf.asked == 1


async def test_a_look_up_that_fails_in_mid_run_is_tried_again_but_not_by_everybody() -> None:
    now = 0.0
    shelf = Shelf(CredentialsError("the login is over."), pair(2))
    shared = SharedCredentials(pair(1), shelf, clock=lambda: now)
    provide = shared.provider()
    await provide()
    for _ in range(5):
        with pytest.raises(ExpiredCredentials, match=r"no new ones: the login is over\."):
            await provide()
    assert shelf.asked == 1
    now = LOOK_UP_AGAIN_SECONDS
    assert (await provide()).access_key_id == "KEY2"


async def test_a_first_look_up_that_fails_ends_the_run() -> None:
    shared = SharedCredentials(None, Shelf(CredentialsError("none.")))
    with pytest.raises(CredentialsError, match=r"^none"):
        await shared.provider()()


@pytest.mark.parametrize("lane", LANES)
async def test_a_look_at_an_object_with_credentials_that_have_ended(
    lane: str, issuer: Issuer, proxy: Any, tree: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a HEAD has no body that says ExpiredToken; the unchanged tree is not sent again all the same."""
    async with ActingPeer(issuer.serve) as endpoint, proxy(issuer.admit) as way:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint.endpoint_url}/role")
        # A journal would know the objects by their ETags, and look at none.
        options: dict[str, Any] = {"endpoint_url": way.endpoint_url, "transport": lane, "journal": False}
        export = partial(asyncsink.export_directory, tree, f"s3://{bucket}", **options)
        assert not (await export()).failures
        issuer.lasts, issuer.used = 2, 0
        before = len(way.refused)
        report = await export()
        refused = way.refused[before:]
    assert (report.failures, report.receipts) == ([], [])
    assert len(report.skips) == 125
    assert any(asked.method == "HEAD" for asked in refused)


@pytest.mark.parametrize("lane", LANES)
async def test_a_head_that_is_refused_for_another_reason_says_so(
    lane: str, issuer: Issuer, proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def admit(asked: Asked) -> bytes | None:
        return refusal(400, "InvalidRequest") if asked.method == "HEAD" else await issuer.admit(asked)

    async with ActingPeer(issuer.serve) as endpoint, proxy(admit) as way:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint.endpoint_url}/role")
        target = S3Target(bucket=bucket, endpoint_url=way.endpoint_url)
        async with open_stack(target, RetryPolicy(), Limits(), lane=lane) as stack:  # type: ignore[arg-type]
            with pytest.raises(PermanentError, match="HeadObject") as caught:
                await stack.transport.send(HeadObject(key="k"))
    assert (caught.value.attempts, caught.value.status) == (2, 400)


async def test_the_command_line_with_a_credential_process(
    issuer: Issuer, proxy: Any, tree: Path, bucket: str, all_there: Callable[[], bool], tmp_path: Path
) -> None:
    """A process that is asked for credentials whenever they have ended, and a limit on what is sent in a second."""
    answer, profile = tmp_path / "answer.json", tmp_path / "config"
    answer.write_text(json.dumps(issuer.document()))
    profile.write_text(f"[profile rotating]\ncredential_process = /bin/cat {answer}\nregion = us-east-1\n")

    async def admit(asked: Asked) -> bytes | None:
        before = issuer.number
        told = await issuer.admit(asked)
        if issuer.number != before:
            answer.write_text(json.dumps(issuer.document()))
        return told

    async with proxy(admit) as way:
        command = [sys.executable, "-m", "asyncsink.cli.main", "export", str(tree), f"s3://{bucket}", "--json"]
        command += ["--endpoint-url", way.endpoint_url, "--profile", "rotating", "--bandwidth", "40MB"]
        ended = await anyio.run_process(command, env=os.environ | {"AWS_CONFIG_FILE": str(profile)}, check=False)
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["objects_failed"], told["objects_uploaded"]) == (0, 0, 125)
    assert issuer.number > 4
    assert told["retries"] == len(way.refused) > 0
    await asyncio.to_thread(_check, all_there)
