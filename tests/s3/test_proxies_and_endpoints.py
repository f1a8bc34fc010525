"""Proxies are named when they are what fails; endpoints may have a path, and are shown as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.utils import should_bypass_proxies

import asyncsink
from asyncsink.errors import AsyncSinkError, ConfigError, ConnectionLost
from asyncsink.options.schema import LaneChoice
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.options.values import check_endpoint
from tests.s3.test_half_set_up import below, service
from tests.support.combinations import crossed
from tests.support.quirky_s3 import QuirkyS3, error, quirky_s3

FAST = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def s3() -> Iterator[QuirkyS3]:
    with quirky_s3() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path, dummy_keys: None) -> Path:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "a"
    path.write_text("x")
    return path


def publish(file: Path, endpoint: str, **options: Any) -> None:
    asyncsink.export_sync(
        {"m": str(file)}, "s3://tryout/p", journal=False, endpoint_url=endpoint, retry=FAST, **options
    ).raise_for_failures()


@pytest.mark.parametrize(
    ("endpoint", "variable"), [("http", "HTTP_PROXY"), ("http", "http_proxy"), ("https", "HTTPS_PROXY")]
)
def test_a_proxy_that_refuses_connections_is_named(
    s3: QuirkyS3, file: Path, endpoint: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://me:hidden-word@127.0.0.1:1")
    before = len(s3.log)
    with pytest.raises(ConnectionLost) as caught:
        publish(file, s3.url.replace("http:", f"{endpoint}:"))
    text = str(caught.value)
    assert "the proxy http://" in text
    assert f"127.0.0.1:1 of {variable} refuses connections" in text
    assert "hidden-word" not in text
    assert "look at the endpoint" not in text
    assert len(s3.log) == before


def test_a_proxy_that_is_not_found_is_named(s3: QuirkyS3, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://no-such-proxy.invalid:3128")
    with pytest.raises(ConnectionLost, match=r"the proxy http://no-such-proxy\.invalid:3128 of HTTP_PROXY cannot be"):
        publish(file, s3.url)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_does_not_connect_is_named(file: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with quirky_s3(lambda _: error(status, "", "")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(AsyncSinkError) as caught:
            publish(file, "https://s3.example.test")
        assert f"the proxy {proxy.url} of HTTPS_PROXY" in str(caught.value)


def test_a_proxy_that_asks_for_a_login(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service("<html>", 407) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        with pytest.raises(ConfigError, match=r"HTTP 407.*The proxy on the way asks for a login"):
            publish(file, "http://s3.example.test")


@pytest.mark.parametrize("url", ["socks5h://127.0.0.1:1", "socks5://h:1", "SOCKS4://me:hidden-word@h:1", "socks://h"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_socks_proxy_is_refused(
    s3: QuirkyS3, file: Path, url: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", url)
    before = len(s3.log)
    with pytest.raises(ConfigError) as caught:
        publish(file, s3.url.replace("http:", f"{scheme}:"))
    text = str(caught.value)
    assert f"{scheme}_proxy" in text
    assert "not supported" in text
    assert "hidden-word" not in text
    assert len(s3.log) == before


def test_the_command_ends_with_2(s3: QuirkyS3, file: Path, tmp_path: Path, run_inside: Any) -> None:
    for url in ("http://127.0.0.1:1", "socks5h://127.0.0.1:1"):
        ended = run_inside("export", file.parent, "s3://tryout/p", env=s3.environment(tmp_path, HTTP_PROXY=url))
        assert ended.returncode == 2
        assert url.encode() in ended.stderr
    # botocore does not read this one.
    ended = run_inside(
        "export", file.parent, "s3://tryout/p", env=s3.environment(tmp_path, ALL_PROXY="socks5h://127.0.0.1:1")
    )
    assert ended.returncode == 0


@pytest.mark.parametrize(
    "no_proxy", ["127.0.0.1", "*", "127.0.0.1:{}", "x, 127.0.0.1 ,y", ".0.0.1", "0.0.1", "127.0.0.0/8", "localhost", ""]
)
def test_which_hosts_are_asked_directly(
    s3: QuirkyS3, file: Path, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy.format(s3.port))
    if should_bypass_proxies(s3.url):
        publish(file, s3.url)
    else:
        with pytest.raises(ConnectionLost, match="the proxy"):
            publish(file, s3.url)


@crossed(
    "lane,slash,scheme,how",
    ["wire", "aioboto3"],
    ["", "/"],
    ["http", "HTTP", "Http"],
    ["option", "environment"],
    usual=lambda lane, slash, scheme, how: bool(slash) == (scheme != "http") == (how == "option"),
)
def test_an_endpoint_with_a_path(
    file: Path, tmp_path: Path, lane: LaneChoice, slash: str, scheme: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "large").write_bytes(bytes(9 * MIB))
    with quirky_s3(below("/storage/v1/s3", lambda: s3)) as s3:
        url = f"{s3.url}/storage/v1/s3{slash}".replace("http:", f"{scheme}:")
        if how == "environment":
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        publish(file.parent, url if how == "option" else None, transport=lane)  # type: ignore[arg-type]
        grabbed = asyncsink.grab_sync(
            "s3://tryout/p", tmp_path / "back", endpoint_url=url if how == "option" else None, transport=lane
        )
        grabbed.raise_for_failures()
        assert sorted(s3.bodies()) == ["p/m/out/a", "p/m/out/large"]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
def test_it_is_shown_with_its_path(file: Path, lane: LaneChoice) -> None:
    with pytest.raises(ConnectionLost, match=r"http://127\.0\.0\.1:1/storage/v1/s3[ ;]"):
        publish(file, "http://127.0.0.1:1/storage/v1/s3/", transport=lane)


@pytest.mark.parametrize(
    ("url", "usual"),
    [
        ("HTTPS://S3.example.org/", "https://S3.example.org"),
        ("http://[::1]:9000/a/b//", "http://[::1]:9000/a/b"),
        ("https://x.supabase.co/storage/v1/s3", "https://x.supabase.co/storage/v1/s3"),
        ("", ""),
    ],
)
def test_the_usual_form_of_an_endpoint(url: str, usual: str) -> None:
    assert check_endpoint(url) == usual


@pytest.mark.parametrize(
    "url", ["https://h/p?x=1", "https://h/p?", "https://h/#f", "https://h/a b", "https://h\\p", "h"]
)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_what_is_no_endpoint(file: Path, url: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    name = "endpoint_url" if how == "option" else "AWS_ENDPOINT_URL"
    with pytest.raises(ConfigError, match=f"^{name}=.*malformed"):
        publish(file, url if how == "option" else None)  # type: ignore[arg-type]


def test_credentials_in_an_endpoint_are_not_repeated(file: Path) -> None:
    assert "hidden-word" not in os.environ
    with pytest.raises(ConfigError, match="'@'") as caught:
        publish(file, "https://me:hidden-word@h/p")
    assert "hidden-word" not in str(caught.value)
