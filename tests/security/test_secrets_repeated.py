"""A server, or what answers in its stead, repeats every secret in every place and form: none of them comes out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import asyncsink
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, quirky_s3

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

PLACES = ["message", "code", "region", "etag", "version", "upload id", "key"]


def xml_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def hostile(s3: QuirkyS3, place: str, told: str) -> Callable[[Request], Answer | None]:
    header = " ".join(told.split())

    def refused(code: str = "AccessDenied", message: str = "no", headers: dict[str, str] | None = None) -> Answer:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message><Region>{message}</Region></Error>"
        return 400, headers or {}, body.encode("utf-8", "surrogateescape")

    def quirk(r: Request) -> Answer | None:
        if place == "message":
            return refused("InvalidRequest", told if "&#" in told else xml_text(told)) if r.method != "HEAD" else None
        if place == "code":
            return refused(xml_text(told)) if r.method in {"PUT", "POST"} else None
        if place == "region":
            return (301, *refused("PermanentRedirect", xml_text(told), {"x-amz-bucket-region": header})[1:])
        if place == "key" and r.method == "GET" and not r.key and "uploads" not in r.query:
            entry = f"<Contents><Key>p/{quote(told)}</Key><Size>1</Size><ETag>x</ETag></Contents>"
            page = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>" + entry
            return 200, {}, f"<ListBucketResult>{page}</ListBucketResult>".encode()
        if place == "upload id" and "uploads" in r.query and r.method == "POST":
            inside = f"<UploadId>{xml_text(told)}</UploadId>"
            return 200, {}, f"<InitiateMultipartUploadResult>{inside}</InitiateMultipartUploadResult>".encode()
        answer = s3.ordinary(r)
        if place == "etag" and r.key and answer[0] == 200:
            return answer[0], {**answer[1], "ETag": f'"{header}"'}, answer[2]
        if place == "version" and r.key and answer[0] == 200:
            return answer[0], {**answer[1], "x-amz-version-id": header}, answer[2]
        return None

    return quirk


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


def leaks(outputs: list[str], told: str, forms: list[str]) -> list[str]:
    whole = "\n".join(outputs)
    plain = letters(whole)
    return [form[:20] for form in [*forms, told] for run in runs(form) if run in plain]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("place", PLACES)
async def test_no_secret_that_is_repeated_comes_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, lane: Any, place: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"1")
    if place == "upload id":
        (source / "large").write_bytes(os.urandom(9 << 20))
    found: list[tuple[str, str]] = []
    with quirky_s3() as s3:
        for name, value in s3.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
        options: dict[str, Any] = {"transport": lane, "retry": IMPATIENT, "sse": CUSTOMER_KEY}
        cases = list(itertools.product(TEXTS, ("plain", "base64 of more")))
        if place == "message":
            cases += itertools.product(("secret key", "customer key"), FORMS)
        for number, (what, form) in enumerate(cases):
            told = FORMS[form](TEXTS[what])
            s3.quirk = hostile(s3, place, told)
            s3.objects["tryout"].clear()
            manifest = tmp_path / f"m{number}.jsonl"
            outputs: list[str] = []
            caplog.clear()
            with caplog.at_level(logging.DEBUG):
                for attempt in ("export", "grab"):
                    try:
                        if attempt == "export":
                            report: Any = await asyncsink.export_directory(
                                source, "s3://tryout/p", manifest=manifest, journal=tmp_path / f"j{number}", **options
                            )
                        else:
                            back = tmp_path / f"back{number}"
                            report = await asyncsink.grab("s3://tryout/p", directory=back, **options)
                    except asyncsink.AsyncSinkError as error:
                        outputs += chain(error)
                    else:
                        outputs += [repr(report), json.dumps(report.as_dict()), report.summary(), *report.notices]
                        for outcome in (*report.receipts, *report.skips, *report.failures):
                            outputs.append(repr(dataclasses.asdict(outcome)))
            outputs += [record.getMessage() for record in caplog.records if place != "key"]
            outputs += [str(record.exc_info) for record in caplog.records]
            for file in tmp_path.glob(f"*{number}*"):
                if file.is_file():
                    outputs.append(file.read_bytes().decode("latin-1"))
            found += [(what, form)] * bool(leaks(outputs, told, [TEXTS[what]]))
    caplog.clear()
    assert not found


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_the_raw_bytes_of_a_customer_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lane: Any) -> None:
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
