"""Nipype rules 40 to 42: every form Amazon has issued, and nothing shown of what is inside."""

from __future__ import annotations

import csv
import io
import os
import random
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import CredentialsError
from asyncsink.s3.credentials.file import Credentials, endpoint_from_environment, read_credentials_file

KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "zyx123wvu456/ABC890+gHiJk="

GOOD = {
    "root": f"AWSAccessKeyId={KEY_ID}\nAWSSecretKey={SECRET}\n",
    "root as documented": f"AWSAccessKeyID={KEY_ID}\nAWSSecretKey={SECRET}",
    "root, CRLF and a BOM": f"\ufeffAWSAccessKeyId={KEY_ID}\r\nAWSSecretKey={SECRET}\r\n",
    "root, blanks and quotes": f"\n AWSAccessKeyId = '{KEY_ID}' \n\nAWSSecretKey = \"{SECRET}\"\n",
    "root, other order": f"AWSSecretKey={SECRET}\nawsaccesskeyid={KEY_ID}\n",
    "IAM as documented": f'User Name,Access Key Id,Secret Access Key\n"username",{KEY_ID},{SECRET}\n',
    "IAM, a comma in the name": f'User Name,Access Key Id,Secret Access Key\n"Doe, Jane",{KEY_ID},{SECRET}\n',
    "access keys": f"Access key ID,Secret access key\n{KEY_ID},{SECRET}\n",
    "access keys, quoted, CRLF, BOM": f'\ufeff"Access key ID","Secret access key"\r\n"{KEY_ID}","{SECRET}"\r\n',
    "five columns": (
        "User name,Password,Access key ID,Secret access key,Console login link\n"
        f"jane,,{KEY_ID},{SECRET},https://1234.signin.aws.amazon.com/console?a=b\n"
    ),
    "five columns, a password": (
        "User name,Password,Access key ID,Secret access key,Console login link\n"
        f'jane,"p,a=ss",{KEY_ID},{SECRET},https://1234.signin.aws.amazon.com/console\n'
    ),
    "reordered": f"Secret access key, User name, Access key ID\n{SECRET}, jane, {KEY_ID}\n",
    "semicolons": f"User name;Access key ID;Secret access key\njane;{KEY_ID};{SECRET}\n",
    "blank lines and a trailing comma": f"\n\nAccess key ID,Secret access key\n\n{KEY_ID},{SECRET},\n\n",
    "profile file": f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n",
}

BAD = {
    "empty": "",
    "blank": "\n\n  \n",
    "header only": "Access key ID,Secret access key\n",
    "no secret": f"AWSAccessKeyId={KEY_ID}\n",
    "empty secret": f"AWSAccessKeyId={KEY_ID}\nAWSSecretKey=\n",
    "too few columns": f"User name,Access key ID,Secret access key\n{KEY_ID},{SECRET}\n",
    "too many columns": f"Access key ID,Secret access key\nDoe,Jane,{KEY_ID},{SECRET}\n",
    "no header": f"jane,{KEY_ID},{SECRET}\n",
    "a space inside": f"AWSAccessKeyId={KEY_ID}\nAWSSecretKey={SECRET} {SECRET}\n",
    "two profiles, half each": f"[a]\naws_access_key_id={KEY_ID}\n[b]\naws_secret_access_key={SECRET}\n",
    "an open quote": f'Access key ID,Secret access key\n{KEY_ID},"{SECRET}\n',
    "a control character": f"AWSAccessKeyId={KEY_ID}\nAWSSecretKey={SECRET}\x00x\n",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_form(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "credentials.csv"
    path.write_bytes(text.removeprefix("\ufeff").encode(encoding) if encoding == "utf-16" else text.encode())
    found = read_credentials_file(path)
    assert (found.access_key_id, found.secret_access_key.reveal().decode()) == (KEY_ID, SECRET)
    assert found.session_token is None
    for shown in (repr(found), str(found)):
        assert SECRET not in shown
        assert KEY_ID not in shown


def test_the_user_name_and_a_session_token(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(GOOD["IAM, a comma in the name"])
    assert read_credentials_file(path).user_name == "Doe, Jane"
    path.write_text(GOOD["profile file"] + "aws_session_token = tok==\n")
    token = read_credentials_file(str(path)).session_token
    assert token is not None
    assert token.reveal() == b"tok=="


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_broken_file_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials.csv"
    path.write_text(text)
    with pytest.raises(CredentialsError, match="Accepted are") as caught:
        read_credentials_file(path)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    assert str(path) in str(caught.value)
    assert SECRET not in shown.replace(text, "")
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\x80\x81\x82")
    for name in ("missing", "", "fifo", "large", "binary", "nul\0"):
        with pytest.raises(CredentialsError, match="Accepted are"):
            read_credentials_file(tmp_path / name)


@given(
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60),
    st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=30),
    st.randoms(use_true_random=False),
)
def test_any_user_name_any_order(tmp_path_factory: pytest.TempPathFactory, secret: str, user: str, rnd: object) -> None:
    columns = [("User name", user), ("Access key ID", KEY_ID), ("Secret access key", secret), ("Password", 'p",=;')]
    assert isinstance(rnd, random.Random)
    rnd.shuffle(columns)
    table = io.StringIO()
    csv.writer(table, quoting=csv.QUOTE_ALL).writerows([[n for n, _ in columns], [v for _, v in columns]])
    path = tmp_path_factory.mktemp("creds") / "file.csv"
    path.write_text(table.getvalue(), encoding="utf-8", newline="")
    found = read_credentials_file(path)
    assert found.secret_access_key.reveal().decode() == secret
    assert isinstance(found, Credentials)


def test_the_endpoint_of_the_environment() -> None:
    both = {"AWS_ENDPOINT_URL_S3": "http://a", "AWS_ENDPOINT_URL": "http://b"}
    assert endpoint_from_environment(both) == "http://a"
    assert endpoint_from_environment({"AWS_ENDPOINT_URL": "http://b"}) == "http://b"
    assert endpoint_from_environment(both | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "True"}) == ""
    assert endpoint_from_environment({}) == ""
