"""creds_path in the forms of the document, against a real server that checks signatures (rules 40 to 43)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, CredentialsError

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]

ROOT_ACCOUNT = "AWSAccessKeyID={id}\nAWSSecretKey={secret}\n"
IAM_USER = 'User Name,Access Key Id,Secret Access Key\n"username",{id},{secret}\n'
FORMS = {
    "document_root_account": ROOT_ACCOUNT,
    "document_iam_user": IAM_USER,
    "root_account_as_nipype_reads_it": "AWSAccessKeyId={id}\r\nAWSSecretKey={secret}\r\n",
    "todays_two_columns": "\ufeffAccess key ID,Secret access key\r\n{id},{secret}\r\n",
    "five_columns": "User name,Password,Access key ID,Secret access key,Console login link\n"
    '"a, b",pw,{id},{secret},https://example.org\n',
}


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("no_environment")
async def test_credentials_file(
    form: str, tree: Path, tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored
) -> None:
    path = tmp_path / "credentials.csv"
    text = FORMS[form].format(id=seaweed.access_key_id, secret=seaweed.secret_access_key)
    path.write_text(text, encoding="utf-8", newline="")
    await asyncsink.export({"m": tree / "a.txt"}, f"s3://{bucket}", creds_path=path, endpoint_url=seaweed.endpoint_url)
    assert stored() == {"m/a.txt": b"alpha"}


@pytest.mark.usefixtures("no_environment")
async def test_a_credentials_file_goes_before_the_environment(
    tree: Path, tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-the-environment")
    path = tmp_path / "c"
    path.write_text(ROOT_ACCOUNT.format(id=seaweed.access_key_id, secret=seaweed.secret_access_key))
    await asyncsink.export({"m": tree / "a.txt"}, f"s3://{bucket}", creds_path=path, endpoint_url=seaweed.endpoint_url)
    assert list(stored()) == ["m/a.txt"]


@pytest.mark.parametrize("content", ["", "hello", "AWSAccessKeyId=AKIA\n", "User Name,Other\na,b\n", "\0\1\2"])
async def test_a_broken_credentials_file_is_refused(content: str, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(content)
    with pytest.raises(CredentialsError, match="creds_path") as caught:
        await asyncsink.export({"m": tree / "a.txt"}, "s3://bucket", creds_path=path)
    assert isinstance(caught.value, ConfigError)
    if content:
        assert content not in str(caught.value)


async def test_a_missing_credentials_file_is_refused(tree: Path, tmp_path: Path, seaweed: DevServer) -> None:
    """Rule 42: Nipype falls back to the environment in silence."""
    with pytest.raises(CredentialsError, match="nowhere"):
        await asyncsink.export({"m": tree / "a.txt"}, "s3://bucket", creds_path=tmp_path / "nowhere")


@pytest.mark.usefixtures("no_environment")
async def test_no_credentials_at_all_are_told_before_anything_is_sent(tree: Path, seaweed: DevServer) -> None:
    """Rule 45: anonymous access is asked for explicitly, never fallen back to."""
    with pytest.raises(CredentialsError, match="creds_path"):
        await asyncsink.export({"m": tree / "a.txt"}, "s3://bucket", endpoint_url=seaweed.endpoint_url)
