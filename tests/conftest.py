"""What every test shares: a real S3 server, an independent reader, and an environment that is nobody's own."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import boto3
import botocore
import hypothesis
import pytest
from botocore import auth, hooks, httpsession
from botocore.config import Config
from botocore.loaders import JSONFileLoader, Loader

import asyncsink.options.settings
from asyncsink.cli.main import main
from asyncsink.devserver.seaweedfs import REGION, DevServer, choose_ports
from asyncsink.model import SourceFile
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.operations import Operation, PutObject, PutObjectFrom
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.stack import open_lanes
from asyncsink.sources.reader import OpenSource
from tests.support.buckets import Buckets

# Failing examples are printed so that they can be pasted back. The "ci" profile tries the same examples on every run,
# so that a red run is red for everybody; "explore" looks for new ones.
hypothesis.settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.register_profile("explore", hypothesis.settings.get_profile("default"), max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

pytest_plugins = ["tests.support.fixtures"]

SIGNED_BY_BOTOCORE = "s3v4-of-botocore"
"""Where awscrt is installed, botocore signs with it, and one request among many fails with "Unknown error" there."""
auth.AUTH_TYPE_MAPS[SIGNED_BY_BOTOCORE] = auth.S3SigV4Auth
auth.AUTH_TYPE_MAPS[f"{SIGNED_BY_BOTOCORE}-query"] = auth.S3SigV4QueryAuth

_SECRETS = pytest.StashKey[set[str]]()
_BUCKETS = pytest.StashKey[Buckets]()
_NIPYPE = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()
_FOREIGN = ("AWS_", "BOTO_", "ASYNCSINK_")
_OF_THE_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no known secret, and with signals as a terminal gives them.

    A background shell starts its commands with SIGINT ignored, nohup with SIGHUP; what is ignored stays ignored in
    every command that a test starts, and would never be interrupted.
    """
    config.stash[_SECRETS] = set()
    # Commands that tests start would compile the package anew each time, for longer than they run.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Read when nipype is imported: it asks nobody for its newest version, and takes nobody's configuration.
    config.stash[_NIPYPE] = tempfile.TemporaryDirectory(prefix="asyncsink-nipype-")
    os.environ |= {"NO_ET": "1", "NIPYPE_NO_ET": "1", "NIPYPE_CONFIG_DIR": config.stash[_NIPYPE].name}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)  # one process needs no xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core, for `-n auto`: the tests wait for servers and watchdogs about as long as they compute."""
    return 2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking through it for garbage again and again takes a tenth of a run."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what `pytest_configure` made."""
    config.stash[_NIPYPE].cleanup()


def pytest_report_header() -> str:
    """Say which examples were tried."""
    return f"hypothesis profile: {os.environ.get('HYPOTHESIS_PROFILE', 'default')}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how large the loops were that recorded their "size", whichever process ran them."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "size" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """A coroutine that waits for ever fails where it waits: a signal does not interrupt uvloop while it is idle."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return
    own = pyfuncitem.get_closest_marker("timeout")
    seconds = 0.9 * float(own.args[0] if own is not None and own.args else pyfuncitem.config.getini("timeout"))

    @functools.wraps(test)
    async def bounded(**fixtures: Any) -> None:
        with anyio.fail_after(seconds):
            await test(**fixtures)

    pyfuncitem.obj = bounded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A secret in anything a test logged, printed or reported fails the test, and is not repeated."""
    report = yield
    secrets = item.config.stash[_SECRETS]
    seen = [*(text for _, text in report.sections), report.longreprtext]
    if any(secret in text for secret in secrets for text in seen):
        report.outcome = "failed"
        report.sections = []
        report.longrepr = f"{item.nodeid}: a secret access key was logged, printed or shown in an error ({call.when})"
    if report.failed and _BUCKETS in item.config.stash:
        item.config.stash[_BUCKETS].check()
    return report


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither credentials nor journals of the developer's, nor a proxy and its authorities, reach a test."""
    nowhere = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_FOREIGN) or name.upper() in _OF_THE_NETWORK:
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", str(nowhere / "no-config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "no-credentials"))
        patch.setenv("BOTO_CONFIG", str(nowhere / "no-boto"))
        # Default journals are kept below these: neither the developer's own are read, nor are theirs added to.
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # Everything the library logs is captured, so that a secret cannot hide below the usual level.
        logging.getLogger("asyncsink").setLevel(logging.DEBUG)
        yield


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """What a test leaves in the environment would decide how the next ones go, in whatever order they come."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = {name for name in before | after if before.get(name) != after.get(name)} - {"PYTEST_CURRENT_TEST"}
    for name in changed:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]
    assert not changed, "the test changed the environment"


@pytest.fixture(autouse=True)
def _secrets_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that one test made up ("AWS_SECRET_ACCESS_KEY") hides no word in the messages of the next ones."""
    monkeypatch.setattr(asyncsink.options.settings, "_known", asyncsink.options.settings.known_secrets())


@pytest.fixture(scope="session", autouse=True)
def _read_models_once() -> Iterator[None]:
    """Every session of botocore parses the same files, lists the same folders and inspects the same handlers.

    That takes a fifth of a second where the models are loaded, and half of each further client's time; clients only
    read what they hold.
    """
    own, load, find = str(Path(botocore.__file__).parent), JSONFileLoader.load_file, Loader.list_available_services
    once = functools.cache(functools.partial(load, JSONFileLoader()))
    found: dict[tuple[str, ...], Any] = {}
    inspected, kinds = hooks.accepts_kwargs, dict[Any, Any]()

    def load_file(loader: JSONFileLoader, path: str) -> Any:
        return once(path) if path.startswith(own) else load(loader, path)

    def list_available_services(loader: Loader, type_name: str) -> Any:
        where = (*loader.search_paths, type_name)
        if where not in found:
            found[where] = find(loader, type_name)
        return found[where]

    def accepts_kwargs(handler: Any) -> bool:
        code = getattr(handler, "__code__", None)  # not the handler, which may hold a client
        if code is None:
            return bool(inspected(handler))
        if code not in kinds:
            kinds[code] = inspected(handler)
        return bool(kinds[code])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_file)
        patch.setattr(Loader, "list_available_services", list_available_services)
        patch.setattr(hooks, "accepts_kwargs", accepts_kwargs)
        yield


@pytest.fixture(scope="session", autouse=True)
def _trust_one_authority(_clean_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No server of a test has a public certificate; each client would read all authorities for a tenth of a second."""
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("authorities") / "one.pem"
    bundle.write_text(Path(httpsession.where()).read_text().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpsession, "where", lambda: str(bundle))
        patch.setenv("SSL_CERT_FILE", str(bundle))
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio only, which is what asyncsink supports."""
    return "asyncio"


@pytest.fixture(scope="session")
def keep_secret(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Register a text that no test may ever log, print or show; returns it."""

    def register(value: str) -> str:
        request.config.stash[_SECRETS].add(value)
        return value

    return register


@pytest.fixture(scope="session")
def seaweed(keep_secret: Callable[[str], str]) -> Iterator[DevServer]:
    """One S3 server for the whole session, started by the first test that asks for it; see `Buckets`."""
    with DevServer(port=choose_ports().s3) as server:
        keep_secret(server.secret_access_key)
        yield server


@pytest.fixture(scope="session")
def s3(seaweed: DevServer) -> Iterator[Any]:
    """A synchronous boto3 client: the independent reader."""
    client = boto3.client(
        "s3",
        endpoint_url=seaweed.endpoint_url,
        region_name=REGION,
        aws_access_key_id=seaweed.access_key_id,
        aws_secret_access_key=seaweed.secret_access_key,
        # SeaweedFS lets a request wait for minutes now and then, on a busy machine: it is sent again.
        config=Config(
            signature_version=SIGNED_BY_BOTOCORE,
            s3={"addressing_style": "path"},
            max_pool_connections=32,
            read_timeout=20,
        ),
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def buckets(seaweed: DevServer, request: pytest.FixtureRequest) -> Buckets:
    """The buckets of the session's server."""
    request.config.stash[_BUCKETS] = buckets = Buckets(seaweed)
    return buckets


@pytest.fixture(scope="session")
def new_bucket(buckets: Buckets) -> Callable[[], str]:
    """Returns the name of a fresh, empty bucket."""
    return buckets.take


@pytest.fixture
def bucket(buckets: Buckets) -> Iterator[str]:
    """A fresh, empty bucket of this test's own."""
    name = buckets.take()
    yield name
    buckets.remove(name)


@pytest.fixture
def run_inside(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The command in this process, in the environment `env` and the directory `cwd`.

    For tests of what it says and does: starting Python and importing an S3 client takes longer than most commands.
    """

    def run(*words: object, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
        capfdbinary.readouterr()
        # A command changes its environment for the rest of its process.
        with monkeypatch.context() as patch, mock.patch.dict(os.environ, env, clear=True):
            for logger in map(logging.getLogger, (None, "asyncsink", "asyncio")):
                patch.setattr(logger, "handlers", [*logger.handlers])  # --verbose adds to them
            if cwd is not None:
                patch.chdir(cwd)
            code = main([str(word) for word in words])
        told = capfdbinary.readouterr()
        return subprocess.CompletedProcess(words, code, told.out, told.err)

    return run


@pytest.fixture(params=["wire", "sender", "aioboto3"])
def put_once(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_secret: Callable[[str], str]
) -> Callable[..., Awaitable[Any]]:
    """Send one PutObject, once, in each of the three ways that a body can take: both lanes, and a lane thread."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keep_secret("not-a-secret-that-may-be-shown-0000000000"))
    way = request.param

    async def put(
        endpoint_url: str, *, size: int = 100, retry: RetryPolicy | None = None, before: Any = None, **target: Any
    ) -> Any:
        """`before(send)` is awaited first, where more than one operation is to be sent."""
        file = tmp_path / "body"
        file.write_bytes(bytes(size))
        status = file.stat()
        source = SourceFile(str(file), status.st_size, status.st_mtime_ns)
        operation: Operation[Any] = (
            PutObjectFrom(key="k", source=partial(OpenSource, source), length=size)
            if way == "sender"
            else PutObject(key="k", body=bytes(size))
        )
        lanes = await open_lanes(
            S3Target(bucket="bkt", endpoint_url=endpoint_url, region="x", **target),
            retry or RetryPolicy(),
            Limits(),
            Pacer(64),
            choice="aioboto3" if way == "aioboto3" else "wire",
        )
        try:
            if before is not None:
                await before(lanes.transport.send)
            return await lanes.transport.send(operation)
        finally:
            await lanes.transport.aclose()

    return put
