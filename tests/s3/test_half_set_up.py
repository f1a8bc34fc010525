"""Credentials and settings that are half set up: one sentence names the file, command or variable; nothing is sent."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from botocore.credentials import SSOProvider
from botocore.tokens import SSOTokenProvider

import asyncsink
from asyncsink.errors import ConfigError, CredentialsError
from asyncsink.options.settings import RetryPolicy
from tests.support.hosts import every_host_is_here
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, error, quirky_s3

ARN = "arn:aws:iam::123456789012:"
STATIC = "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = from-file\n"
GARBAGE = "<html>hidden-word</html>"


@pytest.fixture(scope="module")
def s3() -> Iterator[QuirkyS3]:
    with quirky_s3() as server:
        yield server


@pytest.fixture
def home(s3: QuirkyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with nothing in it but ~/.aws, an S3 that is known, and no credentials."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (tmp_path / ".aws").mkdir()
    (tmp_path / "a").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    return tmp_path


@contextmanager
def service(body: str, status: int = 200) -> Iterator[str]:
    """A server that answers everything with `body`; its URL."""

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # head and body are two writes

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refused(s3: QuirkyS3, home: Path, **options: object) -> ConfigError:
    """The error that an export ends with before anything is sent."""
    before = len(s3.log)
    with pytest.raises(ConfigError) as caught:
        asyncsink.export_sync({"m": str(home / "a")}, "s3://tryout/p", journal=False, **options)  # type: ignore[arg-type]
    assert len(s3.log) == before
    text = str(caught.value)
    assert "hidden-word" not in text
    assert caught.value.__cause__ is None
    return caught.value


def process(command: str) -> str:
    return f"[default]\ncredential_process = {command}\n"


ROLE = f"[default]\nrole_arn = {ARN}role/x\nsource_profile = b\n"
KEYS_OF_B = "[profile b]\naws_access_key_id = AKIDB\naws_secret_access_key = of-b\n"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (process("/opt/none/helper --password hidden-word"), ["credential_process '/opt/none/helper'", "No such file"]),
        (process("/bin/echo hidden-word"), ["credential_process '/bin/echo'", "no JSON"]),
        (process("/bin/sh -c 'echo hidden-word >&2; exit 3'"), ["credential_process '/bin/sh'", "command failed"]),
        (process("""/bin/echo '{"Version":2}'"""), ["Version '2'", "expected 1"]),
        (process("""/bin/echo '{"Version":1,"AccessKeyId":"A"}'"""), ["no SecretAccessKey"]),
        (
            process("""/bin/echo '{"Version":1,"AccessKeyId":7,"SecretAccessKey":[]}'"""),
            ["'/bin/echo'", "access key id"],
        ),
        (process("/bin/echo '[1]'"), ["'/bin/echo'", "incomplete"]),
        (process("/usr/bin/printf '\\xff'"), ["printf", "UTF-8"]),
        (
            process("""/bin/echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s","Expiration":"soon"}'"""),
            ["'/bin/echo'", "Expiration"],
        ),
        (
            process("""/bin/echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s\\n","SessionToken":"t"}'"""),
            ["'/bin/echo'", "secret access key", "line break"],
        ),
        (process("/bin/sh -c 'unclosed"), ["credential_process"]),
        (process("/"), ["credential_process '/'", "Permission denied"]),
        (ROLE, [f"'{ARN}role/x'", "source_profile", '"b"']),
        (ROLE + "[profile b]\nregion = eu-west-1\n", [f"'{ARN}role/x'", '"b" must have credentials']),
        (
            ROLE + f"[profile b]\nrole_arn = {ARN}role/y\nsource_profile = c\n[profile c]\n"
            f"role_arn = {ARN}role/z\nsource_profile = b\n",
            ["source_profile leads back", "b"],
        ),
        (ROLE.replace("source_profile = b", "credential_source = Nothing"), [f"'{ARN}role/x'", "Nothing"]),
        (ROLE.replace("source_profile = b\n", ""), [f"'{ARN}role/x'", "source_profile"]),
        (ROLE + process("/opt/none/helper").replace("default", "profile b"), [f"'{ARN}role/x'"]),
        (ROLE + f"mfa_serial = {ARN}mfa/me\n{KEYS_OF_B}", ["MFA code", f"{ARN}mfa/me", "terminal"]),
        (ROLE + f"duration_seconds = long\n{KEYS_OF_B}", [f"'{ARN}role/x'"]),
        (f"[default]\nrole_arn = {ARN}role/x\nweb_identity_token_file = /none/token\n", ["'/none/token'"]),
        ("[default]\naws_access_key_id = A\n", ["profile 'default'", "aws_secret_access_key"]),
        ("[default]\ns3 = foo\n" + STATIC.partition("\n")[2], ["s3 = foo", "~/.aws/config"]),
        ("[default]\ns3 =\n  foo\n", [".aws/config", "nested line"]),
        ("[default]\ns3 =\n  addressing_style = sideways\n" + STATIC.partition("\n")[2], ["sideways"]),
        ("[default]\ndefaults_mode = fast\n" + STATIC.partition("\n")[2], ["'fast'", "standard"]),
        ("[default]\nregion = not a region\n" + STATIC.partition("\n")[2], ["not a region"]),
        (
            "[default]\nmetadata_service_timeout = long\n",
            ["long", "metadata_service_timeout of profile 'default' in ~/.aws/config"],
        ),
        ("key = 1\n[default]\n", [".aws/config", "line 1", "before the first"]),
        ("[default]\nregion = a\n[default]\n", [".aws/config", "line 3", "twice"]),
        ("[default]\nregion\n", [".aws/config", "line 2"]),
    ],
)
def test_a_profile_that_cannot_be_used(s3: QuirkyS3, home: Path, config: str, words: list[str]) -> None:
    (home / ".aws" / "config").write_text(config)
    text = str(refused(s3, home))
    for word in words:
        assert word in text


def test_a_services_section_that_is_not_there(s3: QuirkyS3, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    (home / ".aws" / "config").write_text("[default]\nservices = gone\n" + STATIC.partition("\n")[2])
    text = str(refused(s3, home))
    assert "gone" in text
    assert "~/.aws/config" in text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "A"}, ["environment", "AWS_SECRET_ACCESS_KEY"]),
        ({"AWS_SECRET_ACCESS_KEY": "s"}, ["AWS_ACCESS_KEY_ID", "without"]),
        ({"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s\n"}, ["environment", "secret access key"]),
        ({"AWS_ACCESS_KEY_ID": "A\u2009", "AWS_SECRET_ACCESS_KEY": "s"}, ["environment", "access key id"]),
        (
            {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t\r\nhidden-word: 1"},
            ["environment", "session token"],
        ),
        ({"AWS_PROFILE": "gone"}, ["'gone'"]),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/none/credentials"}, ["'/none/credentials'", "does not exist"]),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/none/token", "AWS_ROLE_ARN": f"{ARN}role/x"}, ["'/none/token'"]),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/none/token"}, ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.test/c"}, ["'example.test'", "FULL_URI"]),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "nonsense"}, ["FULL_URI='nonsense'"]),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[::1/"}, ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]),
        (
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/c?key=hidden-word",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/none/token",
            },
            ["'/none/token'", "FULL_URI='http://127.0.0.1:1/c'"],
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/c"}, ["http://127.0.0.1:1 cannot be reached"]),
        ({"AWS_DEFAULTS_MODE": "fast"}, ["AWS_DEFAULTS_MODE", "'fast'"]),
        ({"AWS_STS_REGIONAL_ENDPOINTS": "sometimes"}, ["sometimes"]),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "long"}, ["long", "AWS_METADATA_SERVICE_TIMEOUT"]),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv5"}, ["IPv5"]),
        ({"AWS_ENDPOINT_URL_S3": "s3.example.org"}, ["s3.example.org", "AWS_ENDPOINT_URL_S3"]),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1/?x=1"}, ["AWS_ENDPOINT_URL_S3", "query"]),
        ({"AWS_ENDPOINT_URL_S3": "http://me:hidden-word@127.0.0.1:1"}, ["AWS_ENDPOINT_URL_S3", "'@'"]),
    ],
)
def test_variables_that_cannot_be_used(
    s3: QuirkyS3, home: Path, variables: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if any(name.startswith(("AWS_DEF", "AWS_STS", "AWS_END")) for name in variables):
        (home / ".aws" / "credentials").write_text(STATIC)
    if "AWS_STS_REGIONAL_ENDPOINTS" in variables:
        (home / ".aws" / "config").write_text(ROLE + KEYS_OF_B)
    text = str(refused(s3, home))
    for word in words:
        assert word in text


def test_a_token_file_that_ends_in_a_newline(s3: QuirkyS3, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / "token"
    token.write_text("hidden-word\n")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/c")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    text = str(refused(s3, home))
    assert repr(str(token)) in text
    assert "line break" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), ["directory"]),
        (os.mkfifo, ["regular file"]),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf" + STATIC.encode()), ["line 1", "byte-order mark"]),
        (lambda path: path.write_bytes(b"[default]\n# caf\xe9\nregion = a\n"), ["line 2", "UTF-8"]),
        (lambda path: path.write_text(STATIC, "utf-16"), ["line 1", "byte-order mark"]),
    ],
)
@pytest.mark.parametrize("name", ["config", "credentials"])
@pytest.mark.parametrize("keys", ["given", "not given"])
def test_shared_files_that_cannot_be_read(
    s3: QuirkyS3,
    home: Path,
    make: Callable[[Path], object],
    words: list[str],
    name: str,
    keys: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(home / ".aws" / name)
    if keys == "given":
        # What the file says of endpoint and region would count all the same.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    text = str(refused(s3, home))
    for word in [repr(str(home / ".aws" / name)), *words]:
        assert word in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shared_file_without_the_right_to_read_it(s3: QuirkyS3, home: Path) -> None:
    (home / ".aws" / "config").touch(mode=0)
    assert "Permission denied" in str(refused(s3, home))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, GARBAGE, ["no JSON"]),
        (500, GARBAGE, ["HTTP status 500"]),
        (200, '{"AccessKeyId": "A"}', ["incomplete"]),
        (200, '{"AccessKeyId":"A","SecretAccessKey":"s","Token":"t","Expiration":"soon"}', ["Expiration"]),
        (200, "[]", ["incomplete"]),
        (200, "null", ["incomplete"]),
    ],
)
def test_a_container_service_that_answers_nonsense(
    s3: QuirkyS3, home: Path, status: int, body: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(body, status) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/c")
        text = str(refused(s3, home))
    for word in ["AWS_CONTAINER_CREDENTIALS_FULL_URI", *words]:
        assert word in text


@pytest.mark.parametrize(("status", "body"), [(200, GARBAGE), (200, "[]"), (500, ""), (200, "{}"), (200, "\x00\ufffd")])
def test_a_metadata_service_that_answers_nonsense(
    s3: QuirkyS3, home: Path, status: int, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with service(body, status) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert isinstance(refused(s3, home), CredentialsError)


@pytest.mark.parametrize("region", ["eu-west-1", ""])
def test_an_sts_that_cannot_be_reached_is_named(
    s3: QuirkyS3, home: Path, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", region)
    (home / ".aws" / "config").write_text(ROLE + KEYS_OF_B)
    text = str(refused(s3, home))
    assert ("http://127.0.0.1:1 cannot be reached" if region else "specify a region") in text
    assert f"{ARN}role/x" in text
    assert "log in" not in text.lower()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>", ["no)"]),
        (200, GARBAGE, []),
        (200, "", []),
    ],
)
def test_an_sts_that_refuses(
    s3: QuirkyS3, home: Path, status: int, body: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".aws" / "config").write_text(ROLE + KEYS_OF_B)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with service(body, status) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        text = str(refused(s3, home))
    for word in [f"{ARN}role/x", *words]:
        assert word in text


def test_a_process_that_hangs_is_ended(s3: QuirkyS3, home: Path) -> None:
    seconds = f"1000.{secrets.randbelow(10**12):012}"  # by which it is found
    (home / ".aws" / "config").write_text(process(f"/bin/sh -c 'exec sleep {seconds}'"))
    error = refused(s3, home, retry=RetryPolicy(credentials_seconds=1))
    assert "no answer within 1 s" in str(error)
    assert "'/bin/sh'" in str(error)
    assert not [words for words in command_lines() if seconds.encode() in words]


def command_lines() -> Iterator[bytes]:
    """Of every process that is there."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes()


Inside = Callable[..., subprocess.CompletedProcess[bytes]]


def surroundings(s3: QuirkyS3, home: Path) -> dict[str, str]:
    """The environment of a command."""
    env = s3.environment(home, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    env["AWS_ENDPOINT_URL_S3"] = env.pop("AWS_ENDPOINT_URL")
    return env


SSO = "[default]\nsso_session = lab\nsso_account_id = 1\nsso_role_name = r\n[sso-session lab]\n"
SSO += "sso_start_url = https://lab.example\nsso_region = us-east-1\n"


@pytest.mark.parametrize(
    ("title", "config", "cached"),
    [
        ("no cache", SSO, None),
        ("a cache that is no JSON", SSO, "{"),
        ("a cache that is empty", SSO, "{}"),
        ("a login that is over", SSO, json.dumps({"accessToken": "hidden-word", "expiresAt": "2020-01-01T00:00:00Z"})),
        ("a login whose end is no time", SSO, json.dumps({"accessToken": "hidden-word", "expiresAt": "soon"})),
        ("no such session", SSO.replace("[sso-session lab]", "[sso-session other]"), None),
        ("the older form", SSO.replace("sso_session = lab\n", "").replace("[sso-session lab]\n", ""), None),
    ],
)
def test_an_sso_login_that_is_not_there(
    s3: QuirkyS3,
    home: Path,
    run_inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    title: str,
    config: str,
    cached: str | None,
) -> None:
    (home / ".aws" / "config").write_text(config)
    cache = home / ".aws" / "sso" / "cache"
    for each in (SSOTokenProvider, SSOProvider):  # which look for the home directory when they are imported
        monkeypatch.setattr(each, "_SSO_TOKEN_CACHE_DIR", str(cache))
    if cached is not None:
        cache.mkdir(parents=True)
        (cache / f"{hashlib.sha1(b'lab').hexdigest()}.json").write_text(cached)
    ended = run_inside("export", home / "out", "s3://tryout/p", env=surroundings(s3, home))
    assert ended.returncode == 2, ended.stderr
    assert b"SSO" in ended.stderr
    assert b"aws sso login --profile default" in ended.stderr
    assert b"hidden-word" not in ended.stderr


def test_the_command_ends_with_2_and_one_sentence(s3: QuirkyS3, home: Path, run_inside: Inside) -> None:
    before = len(s3.log)
    for config in (process("/opt/none/helper"), "[default]\ns3 = foo\n" + STATIC.partition("\n")[2]):
        (home / ".aws" / "config").write_text(config)
        ended = run_inside("export", home / "out", "s3://tryout/p", env=surroundings(s3, home))
        assert ended.returncode == 2
        assert ended.stderr.count(b"\n") == 1
        assert b"bug of asyncsink" not in ended.stderr
    assert len(s3.log) == before


RENEWED = """\
#!/bin/sh
if [ -e {count} ]; then {then}; fi
touch {count}
echo '{{"Version":1,"AccessKeyId":"A","SecretAccessKey":"s","SessionToken":"t","Expiration":"2099-01-01T00:00:00Z"}}'
"""


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize(
    ("then", "words"), [("echo hidden-word; exit 0", "no JSON"), ("echo hidden-word >&2; exit 3", "command failed")]
)
def test_credentials_that_cannot_be_renewed_fail_their_files(
    home: Path, lane: str, then: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, count = home / "helper", home / "count"
    program.write_text(RENEWED.format(count=count, then=then))
    program.chmod(0o700)
    (home / ".aws" / "config").write_text(process(str(program)))
    for name in ("a", "b", "c"):
        (home / "out" / name).write_text(name)

    def expired(request: Request) -> Answer | None:
        return error(400, "ExpiredToken") if request.method == "PUT" else None

    with quirky_s3(expired) as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
        report = asyncsink.export_sync(
            {"m": str(home / "out")},
            "s3://tryout/p",
            journal=False,
            transport=lane,  # type: ignore[arg-type]
            retry=RetryPolicy(attempts=2, backoff_seconds_base=0.0),
        )
    assert len(report.failures) == 3
    for failure in report.failures:
        assert failure.error == "ExpiredCredentials"
        assert words in failure.message
        assert "credential_process" in failure.message
        assert "hidden-word" not in failure.message


def test_what_a_failing_helper_says_is_not_logged(s3: QuirkyS3, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    program, count = home / "helper", home / "count"
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    text = RENEWED.replace("2099-01-01T00:00:00Z", f"{soon:%Y-%m-%dT%H:%M:%SZ}")
    program.write_text(text.format(count=count, then="echo hidden-word >&2; exit 3"))
    program.chmod(0o700)
    (home / ".aws" / "config").write_text(process(str(program)))
    with caplog.at_level("DEBUG"):
        refused(s3, home)
    assert "Refreshing temporary credentials failed" in caplog.text
    assert "hidden-word" not in caplog.text


@pytest.mark.parametrize(
    ("option", "variables", "profile", "region"),
    [
        ("eu-north-1", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3", "eu-north-1"),
        ("", {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3", "eu-west-1"),
        ("", {"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3", "eu-west-2"),
        ("", {"AWS_REGION": "eu-west-1"}, "eu-west-3", "eu-west-1"),
        ("", {}, "eu-west-3", "eu-west-3"),
        ("", {}, "", "us-east-1"),
    ],
)
@pytest.mark.parametrize("lane", ["auto", "aioboto3"])
def test_which_region_is_signed_for(
    home: Path,
    option: str,
    variables: dict[str, str],
    profile: str,
    region: str,
    lane: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (home / ".aws" / "config").write_text(STATIC + (f"region = {profile}\n" if profile else ""))
    with quirky_s3() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
        asyncsink.export_sync(
            {"m": str(home / "a")},
            "s3://tryout/p",
            journal=False,
            transport=lane,
            **({"region": option} if option else {}),
        ).raise_for_failures()
        assert {r.headers["authorization"].split("/")[2] for r in s3.log} == {region}


SETTINGS = STATIC + "region = a-region\n"


@pytest.mark.parametrize("lane", ["auto", "wire", "aioboto3"])
@pytest.mark.parametrize(
    "config",
    [
        SETTINGS + "endpoint_url = {}/s/\ns3 =\n  addressing_style = {}\n",
        SETTINGS + "services = lab\ns3 =\n  addressing_style = {1}\n[services lab]\ns3 =\n  endpoint_url = {0}/s\n",
        SETTINGS + "services = lab\ns3 =\n  addressing_style = {1}\n[services lab]\ns3 =\n  endpoint_url = {0}/s/\n"
        "[profile other]\nregion = b\n",
    ],
)
@pytest.mark.parametrize("style", ["virtual", "path"])
def test_endpoint_and_addressing_style_of_the_profile(
    home: Path, lane: str, config: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    every_host_is_here(monkeypatch)
    with quirky_s3(below("/s", lambda: s3), suffix="s3.test") as s3:
        (home / ".aws" / "config").write_text(config.format(f"http://s3.test:{s3.port}", style))
        asyncsink.export_sync(
            {"m": str(home / "a")}, "s3://tryout/p", journal=False, transport=lane
        ).raise_for_failures()
        hosts = {r.headers["host"] for r in s3.log}
        assert hosts == {f"tryout.s3.test:{s3.port}" if style == "virtual" else f"s3.test:{s3.port}"}
        assert all(r.path.startswith("/s" if style == "virtual" else "/s/tryout") for r in s3.log)
        # Not TLS, and another machine by its name: the bytes are signed.
        assert all(r.headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD" for r in s3.requests("PUT"))


def below(base: str, server: Callable[[], QuirkyS3]) -> Callable[[Request], Answer]:
    """An S3 whose endpoint has a path."""

    def quirk(request: Request) -> Answer:
        path = unquote(request.path.partition("?")[0])
        assert f"{path}/".startswith(f"{base}/")
        path = path.removeprefix(base).removeprefix("/")
        suffix = server().suffix
        if suffix and request.headers["host"].partition(":")[0].endswith(f".{suffix}"):
            return server().ordinary(replace(request, key=path))
        bucket, _, key = path.partition("/")
        status, headers, body = server().ordinary(replace(request, bucket=bucket, key=key))
        if status == 206:  # S3 tells no checksum of a part of an object
            headers = {name: value for name, value in headers.items() if "checksum" not in name}
        return status, headers, body

    return quirk
