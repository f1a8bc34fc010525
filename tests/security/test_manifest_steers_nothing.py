"""A manifest is somebody's text: it chooses no server that is sent credentials or keys, and no file that is read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError
from tests.support.quirky_s3 import QuirkyS3, quirky_s3, run_command

pytestmark = pytest.mark.anyio
KEY = bytes(range(32))
ELSEWHERE = "http://s3.example.test:9000"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keep_secret: Any) -> Path:
    """Credentials with a session token, and a server that nothing names."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keep_secret("secret-access-key-not-to-be-sent-anywhere"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", keep_secret("session-token-not-to-be-sent-anywhere"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def theirs() -> Iterator[QuirkyS3]:
    """The server that the manifest names."""
    with quirky_s3() as server:
        yield server


@pytest.fixture
def ours() -> Iterator[QuirkyS3]:
    """The server that the environment, or an option, names."""
    with quirky_s3() as server:
        yield server


@pytest.fixture
async def manifest(tmp_path: Path, home: Path, theirs: QuirkyS3) -> Path:
    """Of one object at `theirs`."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("alpha")
    path = tmp_path / "m.jsonl"
    await asyncsink.export_directory(
        tmp_path / "d", "s3://tryout/p", endpoint_url=theirs.url, manifest=path, journal=False
    )
    theirs.log.clear()
    return path


@pytest.mark.parametrize("lane", ["auto", "aioboto3"])
async def test_a_server_that_only_the_manifest_names_is_sent_nothing(
    manifest: Path, theirs: QuirkyS3, lane: str
) -> None:
    with pytest.raises(ConfigError, match="neither an option, the environment nor the profile does") as caught:
        await asyncsink.verify_manifest(manifest, options={"sse": KEY, "transport": lane})
    assert theirs.url in str(caught.value)
    assert "manifest_endpoint=True" in str(caught.value)
    assert theirs.log == []


async def test_an_option_confirms_it(manifest: Path, theirs: QuirkyS3) -> None:
    assert (await asyncsink.verify_manifest(manifest, manifest_endpoint=True)).ok
    assert (await asyncsink.verify_manifest(manifest, options={"endpoint_url": theirs.url.upper() + "/"})).ok
    with pytest.raises(ConfigError, match="give one of them"):
        await asyncsink.verify_manifest(manifest, manifest_endpoint=True, options={"endpoint_url": ELSEWHERE})


@pytest.mark.parametrize("named", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "profile", "services", "option"])
async def test_what_else_names_a_server_goes_first(
    manifest: Path, home: Path, theirs: QuirkyS3, ours: QuirkyS3, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    ours.objects["tryout"] |= theirs.objects["tryout"]
    options = {}
    if named == "option":
        options["endpoint_url"] = ours.url
    elif named.startswith("AWS_"):
        monkeypatch.setenv(named, ours.url)
    else:
        text = f"[default]\nendpoint_url = {ours.url}\n"
        if named == "services":
            text = f"[default]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = {ours.url}\n"
        (home / "config").write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "config"))
    report = await asyncsink.verify_manifest(manifest, options=options)
    assert (report.ok, report.checked) == (True, 1)
    assert theirs.log == []
    assert ours.log
    assert any(theirs.url in notice and ours.url in notice for notice in report.notices)


async def test_the_same_server_is_as_good_as_none(
    manifest: Path, theirs: QuirkyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", theirs.url + "/")
    report = await asyncsink.verify_manifest(manifest)
    assert (report.ok, report.notices) == (True, [])


async def test_the_command_names_its_flag(manifest: Path, home: Path, theirs: QuirkyS3) -> None:
    """As a process: a loop runs here already."""
    env = theirs.environment(home, AWS_ENDPOINT_URL=None, AWS_SESSION_TOKEN="not-to-be-sent")
    ended = run_command("verify", manifest, env=env)
    assert ended.returncode == 2
    assert theirs.log == []
    said = ended.stderr.decode()
    assert (theirs.url in said, "--manifest-endpoint" in said, "Traceback" in said) == (True, True, False)
    assert run_command("verify", manifest, "--manifest-endpoint", env=env).returncode == 0


# -- customer keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("door", ["export", "plan", "grab", "verify", "sink"])
@pytest.mark.parametrize("named", ["option", "environment", "profile"])
async def test_a_customer_key_leaves_this_machine_by_https_only(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, lane: str, door: str, named: str
) -> None:
    """The name resolves to nothing: a run that tried it would fail otherwise."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("alpha")
    options: dict[str, Any] = {"sse": KEY, "transport": lane}
    if named == "option":
        options["endpoint_url"] = ELSEWHERE
    elif named == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", ELSEWHERE)
    else:
        (home / "config").write_text(f"[default]\nendpoint_url = {ELSEWHERE}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "config"))
    with pytest.raises(ConfigError, match=r"customer key .* 's3\.example\.test' over plain HTTP"):
        await use(door, tmp_path, options)


async def use(door: str, tmp_path: Path, options: dict[str, Any]) -> None:
    """Go through one of the doors by which a key can be sent."""
    if door == "export":
        await asyncsink.export_directory(tmp_path / "d", "s3://tryout/p", on_unreachable="local", **options)
    elif door == "plan":
        from asyncsink.engine.export import run_source
        from asyncsink.options.parse import parse_options
        from asyncsink.sources.directory import DirectorySource

        settings = parse_options("s3://tryout/p", options)
        await run_source(settings, DirectorySource(tmp_path / "d", symlinks="inside"), dry_run=True)
    elif door == "grab":
        await asyncsink.grab("s3://tryout/p", tmp_path / "g", **options)
    elif door == "sink":
        async with asyncsink.AsyncSink("s3://tryout/p", **options):
            pass
    else:
        header = {"record": "run", "destination": "s3://tryout/p", "endpoint_url": "", "region": "us-east-1"}
        header |= {"addressing_style": "path", "asyncsink": "0", "started": ""}
        (tmp_path / "m").write_text(json.dumps(header) + "\n")
        await asyncsink.verify_manifest(tmp_path / "m", options=options)


@pytest.mark.parametrize(
    ("endpoint", "proxy", "refused"),
    [
        ("http://10.0.0.1", "", "10.0.0.1"),
        ("http://127.0.0.1.example.test", "", "127.0.0.1.example.test"),
        ("http://localhost.example.test", "", "localhost.example.test"),
        ("http://s3.eu-west-3.amazonaws.com", "", "s3.eu-west-3.amazonaws.com"),
        ("http://127.0.0.1:1", "http://proxy.example.test:3128", "proxy.example.test"),
        ("https://s3.example.test", "http://proxy.example.test:3128", ""),
        ("https://s3.example.test", "", ""),
        ("http://127.8.0.1:1", "", ""),
        ("http://localhost:1", "", ""),
        ("http://[::1]:1", "", ""),
    ],
)
async def test_where_a_key_may_go(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, proxy: str, refused: str
) -> None:
    """What is allowed is opened, and then not reached."""
    if proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    (tmp_path / "d").mkdir()
    retry = asyncsink.RetryPolicy(attempts=1, connect_seconds=1)
    with pytest.raises(asyncsink.AsyncSinkError) as caught:
        await asyncsink.export_directory(tmp_path / "d", "s3://tryout", endpoint_url=endpoint, sse=KEY, retry=retry)
    assert ("over plain HTTP" in str(caught.value)) == bool(refused)
    assert f"'{refused}' over" in str(caught.value) or not refused


# -- local files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("/dev/zero", "lies outside of"),
        ("/etc/hostname", "lies outside of"),
        ("DIR/../d/a.txt", "lies outside of"),
        ("DIRectory/a.txt", "lies outside of"),
        ("s3://bucket/key", "lies outside of"),
        ("", "lies outside of"),
        ("DIR/fifo", "no regular file"),
        ("DIR/zero", "no regular file"),
        ("DIR/folder", "it cannot be read"),
        ("DIR/a.txt\0", "none that a file can have"),
        ("DIR/larger", "it has 6 bytes; 5 were published"),
    ],
)
async def test_a_manifest_names_no_file_that_is_not_its_runs(tmp_path: Path, url: str, problem: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("alpha")
    out, manifest = tmp_path / "out", tmp_path / "m"
    await asyncsink.export_directory(tmp_path / "d", out, manifest=manifest)
    os.mkfifo(out / "fifo")
    (out / "zero").symlink_to("/dev/zero")
    (out / "folder").mkdir()
    (out / "larger").write_text("alpha!")
    lines = manifest.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"url": url.replace("DIR", str(out))})
    manifest.write_text("\n".join(lines) + "\n")
    report = await asyncsink.verify_manifest(manifest)
    assert (report.ok, report.checked) == (False, 1)
    ((_, _, message),) = report.problems
    assert problem in message


# -- files that are none -----------------------------------------------------------------------------------------------


@contextmanager
def ended_at_last(paths: Iterable[Path]) -> Iterator[None]:
    """Whoever waits in the block for the other end of a FIFO gets it after 60 s, so that the test fails and goes on."""
    fifos, late = [path for path in paths if path.is_fifo()], threading.Event()

    def let_go() -> None:
        late.set()
        for path in fifos:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    timer = threading.Timer(60, let_go)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    assert not late.is_set(), "the command waited for a FIFO"


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder"])
@pytest.mark.parametrize(
    "words",
    [
        ("verify", "FILE"),
        ("export", "d", "s3://tryout", "--manifest", "FILE"),
        ("export", "d", "s3://tryout", "--manifest", "FILE/m"),
        ("export", "d", "s3://tryout", "--journal", "FILE"),
        ("export", "d", "s3://tryout", "--creds-path", "FILE"),
        ("export", "d", "s3://tryout", "--ca-bundle", "FILE"),
        ("export", "d", "s3://tryout", "--ca-bundle", "FILE", "--transport", "aioboto3"),
        ("export", "d", "s3://tryout", "--sse", "file:FILE"),
        ("export", "d", "out", "--manifest", "FILE"),
        ("grab", "s3://tryout", "g", "--sse", "file:FILE"),
        ("grab", "s3://tryout", "g", "--ca-bundle", "FILE"),
        ("grab", "s3://tryout", "FILE"),
        ("abort-uploads", "s3://tryout", "--older-than", "1d", "--ca-bundle", "FILE"),
        ("abort-uploads", "s3://tryout", "--older-than", "1d", "--creds-path", "FILE"),
        ("plan", "FILE", "s3://tryout"),
        ("plan", "FILE.jsonl", "s3://tryout"),
        ("plan", "FILE.json", "s3://tryout"),
        ("plan", "FILE.yaml", "s3://tryout"),
    ],
)
def test_no_file_that_is_named_hangs_a_command(
    tmp_path: Path, home: Path, ours: QuirkyS3, run_inside: Any, words: tuple[str, ...], kind: str
) -> None:
    if kind == "folder" and (words[0] == "plan" or words[-1] == "FILE/m" or words[1:] == ("s3://tryout", "FILE")):
        pytest.skip("a folder is what belongs here")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("alpha")
    for suffix in ("", ".jsonl", ".json", ".yaml"):
        place = tmp_path / f"it{suffix}"
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to(kind)
    with ended_at_last(tmp_path.glob("it*")):
        ended = run_inside(*(word.replace("FILE", "it") for word in words), env=ours.environment(home), cwd=tmp_path)
    assert ended.returncode == 2
    said = ended.stderr.decode()
    assert len(said.strip().splitlines()) <= 6
    assert "Traceback" not in said
    assert not [request for request in ours.log if request.method == "PUT"]


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize("lane", ["auto", "aioboto3"])
def test_no_file_of_the_environment_hangs_a_command(
    tmp_path: Path, home: Path, ours: QuirkyS3, run_inside: Any, variable: str, lane: str
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("alpha")
    os.mkfifo(tmp_path / "fifo")
    env = ours.environment(home, **{variable: str(tmp_path / "fifo")})
    with ended_at_last([tmp_path / "fifo"]):
        ended = run_inside("export", "d", "s3://tryout", "--transport", lane, env=env, cwd=tmp_path)
    if variable == "AWS_CA_BUNDLE" and lane == "auto":
        assert ended.returncode == 0, "plain HTTP needs none, and it is not opened"
        return
    assert ended.returncode == 2
    assert "no regular file" in ended.stderr.decode()
