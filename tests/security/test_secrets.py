"""A server, or what answers in its stead, repeats every secret in every place and form: none of them comes out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import asyncsink
from asyncsink.errors import AsyncSinkError
from asyncsink.options.settings import RetryPolicy, Secret
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject, quirky_s3

pytestmark = pytest.mark.anyio
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzzzzEXAMPLE"
TOKEN = "FwoGZXIvYXdzEBYaDH" + base64.b64encode(hashlib.sha512(b"token").digest()).decode() * 3
CUSTOMER_KEY = hashlib.sha256(b"customer").digest()
MD5 = hashlib.md5(CUSTOMER_KEY).digest()
IMPATIENT = asyncsink.RetryPolicy(attempts=1)
RUN = 23
"""Letters and digits of a secret in a row that must not come out."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


TEXTS = {
    "secret key": SECRET_KEY,
    "session token": TOKEN,
    "customer key": base64.b64encode(CUSTOMER_KEY).decode(),
    "customer key in hex": CUSTOMER_KEY.hex(),
    "its MD5": base64.b64encode(MD5).decode(),
    "its MD5 in hex": MD5.hex(),
}
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of more": lambda text: base64.b64encode(b"id:" + text.encode() + b"!").decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(b"x" + text.encode()).decode(),
    "percent": lambda text: quote(text, safe=""),
    "percent of all": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "XML": lambda text: "".join(f"&#x{ord(c):x};" for c in text),
    "JSON": lambda text: json.dumps(text).replace("/", "\\/").replace("a", "\\u0061"),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "split": lambda text: "\n".join(text[at : at + 7] for at in range(0, len(text), 7)),
    "dashes": lambda text: "-".join(text[at : at + 4] for at in range(0, len(text), 4)),
}


def xml_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def refused(code: str = "AccessDenied", message: str = "no", headers: dict[str, str] | None = None) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message><Region>{message}</Region></Error>"
    return 400, headers or {}, body.encode("utf-8", "surrogateescape")


def hostile(s3: QuirkyS3, place: str, told_to: Callable[[Request], str]) -> Callable[[Request], Answer | None]:
    """Repeat in one place what `told_to` says; an ordinary answer where that is ""."""

    def quirk(r: Request) -> Answer | None:
        if not (told := told_to(r)):
            return None
        header = " ".join(told.split())
        if place == "message":
            return refused("InvalidRequest", told if "&#" in told else xml_text(told)) if r.method != "HEAD" else None
        if place == "code":
            return refused(xml_text(told)) if r.method in {"PUT", "POST"} else None
        if place == "region":
            return (301, *refused("PermanentRedirect", xml_text(told), {"x-amz-bucket-region": header})[1:])
        if place == "upload id" and "uploads" in r.query and r.method == "POST":
            inside = f"<UploadId>{xml_text(told)}</UploadId>"
            return 200, {}, f"<InitiateMultipartUploadResult>{inside}</InitiateMultipartUploadResult>".encode()
        answer = s3.ordinary(r)
        if place == "etag" and answer[0] == 200:
            return answer[0], {**answer[1], "ETag": f'"{header}"'}, answer[2]
        if place == "version" and answer[0] == 200:
            return answer[0], {**answer[1], "x-amz-version-id": header}, answer[2]
        return None

    return quirk


def of_its_own(told: list[str]) -> Callable[[Request], str]:
    """What is repeated to requests about the object p/N is the Nth; the bucket is as it should be."""
    return lambda r: told[int(name)] if (name := r.key.removeprefix("p/")).isdigit() else ""


def listing_of(told: list[str]) -> Callable[[Request], Answer | None]:
    """A listing with a key for each."""
    entries = [f"<Contents><Key>p/{quote(each)}</Key><Size>1</Size><ETag>x</ETag></Contents>" for each in told]
    page = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>" + "".join(entries)
    body = f"<ListBucketResult>{page}</ListBucketResult>".encode()
    return lambda r: (200, {}, body) if r.method == "GET" and not r.key and "uploads" not in r.query else None


def letters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())


def runs(text: str) -> set[str]:
    plain = letters(text)
    return {plain[at : at + RUN] for at in range(max(1, len(plain) - RUN + 1))} if len(plain) >= 8 else set()


def chain(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield from (repr(each), str(each), repr(each.args), repr(getattr(each, "__notes__", "")))
        yield repr({name: value for name, value in vars(each).items() if isinstance(value, str)})
        waiting += [each.__cause__, each.__context__]


class Bystander:
    """Runs exports and grabs, and keeps all that comes out of them: errors, reports, logs and files."""

    def __init__(self, directory: Path, lane: str, caplog: pytest.LogCaptureFixture) -> None:
        self.options: dict[str, Any] = {"transport": lane, "retry": IMPATIENT, "sse": CUSTOMER_KEY, "retries": 0}
        self.outputs: list[str] = []
        self.log_texts = True
        self._directory = directory
        self._caplog = caplog
        self._runs = 0

    async def export(self, source: Path) -> None:
        manifest, journal = self._new("manifest"), self._new("journal")
        await self._keep(
            asyncsink.export_directory(source, "s3://tryout/p", manifest=manifest, journal=journal, **self.options)
        )

    async def grab(self) -> None:
        options = {name: value for name, value in self.options.items() if name != "retries"}
        await self._keep(asyncsink.grab("s3://tryout/p", directory=self._new("back"), **options))

    def _new(self, name: str) -> Path:
        self._runs += 1
        return self._directory / f"{name}{self._runs}"

    async def _keep(self, running: Coroutine[Any, Any, Any]) -> None:
        self._caplog.clear()
        with self._caplog.at_level(logging.DEBUG):
            try:
                report = await running
            except asyncsink.AsyncSinkError as error:
                self.outputs += chain(error)
            else:
                self.outputs += [repr(report), json.dumps(report.as_dict()), report.summary(), *report.notices]
                for outcome in (*report.receipts, *report.skips, *report.failures):
                    self.outputs.append(repr(dataclasses.asdict(outcome)))
        self.outputs += [record.getMessage() for record in self._caplog.records if self.log_texts]
        self.outputs += [str(record.exc_info) for record in self._caplog.records]
        for file in self._directory.glob(f"*{self._runs}*"):
            if file.is_file():
                self.outputs.append(file.read_bytes().decode("latin-1"))
        self._caplog.clear()

    def leaked(self, cases: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The cases of which a run of letters came out."""
        plain = letters("\n".join(self.outputs))
        return [
            (what, form)
            for what, form in cases
            if any(run in plain for text in (TEXTS[what], FORMS[form](TEXTS[what])) for run in runs(text))
        ]


@pytest.fixture
def quirky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QuirkyS3]:
    with quirky_s3() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
        yield server


CASES = list(itertools.product(TEXTS, ("plain", "base64 of more")))
IN_EVERY_FORM = [*CASES, *itertools.product(("secret key", "customer key"), FORMS)]
LANES = pytest.mark.parametrize("lane", ["wire", "aioboto3"])


@LANES
@pytest.mark.parametrize("place", ["message", "code", "region", "etag", "version", "upload id"])
async def test_no_secret_that_is_repeated_comes_out(
    quirky: QuirkyS3, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane: str, place: str
) -> None:
    cases = IN_EVERY_FORM if place == "message" else CASES
    told = [FORMS[form](TEXTS[what]) for what, form in cases]
    data = bytes(9 << 20) if place == "upload id" else b"1"
    quirky.quirk = hostile(quirky, place, of_its_own(told))
    bystander = Bystander(tmp_path, lane, caplog)
    # Ten equal errors end a run; texts that are not shown make equal errors.
    for first in range(0, len(cases), 9):
        numbers = range(first, min(first + 9, len(cases)))
        source = tmp_path / f"source {first}"
        source.mkdir()
        quirky.objects["tryout"].clear()
        for number in numbers:
            (source / str(number)).write_bytes(data)
        await bystander.export(source)
        quirky.objects["tryout"] |= {f"p/{number}": StoredObject(b"1") for number in numbers}
        if place != "upload id":
            await bystander.grab()
    for method in ("PUT", "GET") if place != "upload id" else ("POST",):
        assert {f"p/{number}" for number in range(len(cases))} <= {r.key for r in quirky.requests(method)}
    assert not bystander.leaked(cases)


@LANES
async def test_no_secret_that_is_repeated_as_a_key_comes_out(
    quirky: QuirkyS3, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane: str
) -> None:
    quirky.quirk = listing_of([FORMS[form](TEXTS[what]) for what, form in CASES])
    bystander = Bystander(tmp_path, lane, caplog)
    bystander.log_texts = False  # requests about these keys
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"1")
    await bystander.export(source)
    await bystander.grab()
    assert not bystander.leaked(CASES)


@LANES
@pytest.mark.parametrize("place", ["message", "region"])
@pytest.mark.parametrize(
    "cases",
    [
        [("secret key", "plain"), ("session token", "percent twice"), ("customer key", "base64 of more")],
        pytest.param(IN_EVERY_FORM, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
    ids=["three", "all"],
)
async def test_no_secret_that_is_repeated_about_the_bucket_comes_out(
    quirky: QuirkyS3,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lane: str,
    place: str,
    cases: list[tuple[str, str]],
) -> None:
    bystander = Bystander(tmp_path, lane, caplog)
    for what, form in cases:
        told = FORMS[form](TEXTS[what])
        quirky.quirk = hostile(quirky, place, lambda _, told=told: told)  # type: ignore[misc]
        await bystander.grab()
    assert len(quirky.log) >= len(cases)
    assert not bystander.leaked(cases)


@LANES
async def test_the_raw_bytes_of_a_customer_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lane: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"1")
    head, tail = b"<Error><Code>InvalidRequest</Code><Message>", b"</Message></Error>"
    body = head + b"\n".join((CUSTOMER_KEY[:16], CUSTOMER_KEY[16:])) + tail
    with quirky_s3(lambda r: (400, {}, body) if r.method == "PUT" else None) as s3:
        for name, value in s3.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        report = await asyncsink.export_directory(
            source, "s3://tryout/p", transport=lane, retry=IMPATIENT, sse=CUSTOMER_KEY, journal=False
        )
    (failure,) = report.failures
    printable = [chr(byte) for byte in CUSTOMER_KEY if 32 < byte < 127]
    assert "".join(printable[:4]) not in "".join(failure.message.split())
    assert "�" not in failure.message


# -- Every log at its lowest level, ours and the libraries': nothing secret is in it, on either lane -------------------


MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, size in {"small.txt": 100, "whole.bin": 2 * MIB, "parts.bin": 11 * MIB}.items():
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_no_log_holds_a_secret(
    lane: str,
    root: Path,
    bucket: str,
    seaweed: Any,
    keep_secret: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    key = os.urandom(32)
    token = "session-token-that-is-not-shown-" + os.urandom(16).hex()
    secrets = [
        seaweed.secret_access_key,
        base64.b64encode(key).decode(),
        keep_secret(token),
        keep_secret(base64.b64encode(hashlib.sha256(key).digest()).decode()),
    ]
    keep_secret(secrets[1])
    options: dict[str, Any] = {
        "endpoint_url": seaweed.endpoint_url,
        "transport": lane,
        "part_size_bytes": "5MiB",
        "sse": key,
        "retry": RetryPolicy(attempts=2, backoff_seconds_base=0.01),
    }
    with caplog.at_level(logging.DEBUG):
        report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        try:
            await asyncsink.export_directory(root, f"s3://{bucket}/again", **options)
        except AsyncSinkError as error:
            told = str(error)
        else:
            told = ""
    report.raise_for_failures()
    names = {record.name.partition(".")[0] for record in caplog.records}
    assert "asyncsink" in names
    lines = [f"{record.name}: {record.getMessage()}" for record in caplog.records] + [told, repr(report)]
    leaks = {line.split(" ")[0] for line in lines for secret in secrets if secret in line}
    caplog.clear()
    assert not leaks


def test_a_process_that_receives_a_secret_keeps_it_out_of_messages_too() -> None:
    program = """
        import pickle, sys
        from asyncsink.options.settings import known_secrets
        secret = pickle.load(sys.stdin.buffer)
        sys.exit(0 if known_secrets() == (secret.reveal(),) else "it is not known")
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(run, input=pickle.dumps(Secret(CUSTOMER_KEY)), check=True)
