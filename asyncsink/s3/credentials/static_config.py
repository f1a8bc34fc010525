"""Configuration that options and environment settle by themselves, so that the AWS SDK need not be loaded.

Loading it and making its client takes most of a second. Explicit options, the environment's key pair, region, endpoint
and CA bundle, creds_path, and shared files as `aws configure` writes them are read without it. Anything else that could
change the SDK's decision (a named profile, any other line in those files, a proxy, an AWS_ variable that is not known
here) leaves it to the SDK. Sources: AWS SDKs and Tools Reference Guide, "Configuration"; botocore's configprovider.py,
credentials.py, configloader.py and endpoint.py.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from asyncsink.options.schema import S3Target
from asyncsink.options.settings import Secret
from asyncsink.s3.checksum_headers import SETTINGS, USUAL, ChecksumUse, checksum_use
from asyncsink.s3.credentials.file import Credentials, endpoint_from_environment, read_credentials_file
from asyncsink.s3.endpoint import is_special
from asyncsink.value import dataclass

USED: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CA_BUNDLE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
    }
)
HARMLESS: Final = frozenset(
    {
        "AWS_EC2_METADATA_DISABLED",  # comes after the environment's key pair
        "AWS_DEFAULT_OUTPUT",  # the four others are the command line's
        "AWS_PAGER",
        "AWS_CLI_AUTO_PROMPT",
        "AWS_CLI_FILE_ENCODING",
    }
)
SDK_REGION: Final = "us-east-1"
"""The SDK's region for a custom endpoint where none is named."""
FILE_CHARACTERS_MAX: Final = 64 * 1024

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ENDPOINT = re.compile(rf"https?://{_LABEL}(\.{_LABEL})*(:[1-9][0-9]{{0,4}})?/?")
"""Plain endpoints: IPv6 addresses and paths are left to the SDK."""
_AMAZON_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".aws")
_AMAZON_REGION = re.compile(r"(us-gov|us|eu|ap|sa|ca|me|af|il|mx|cn)-[a-z]+-[0-9]")
_REGION = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SPECIAL_REGION = re.compile(r"fips|global|external")
_KEY_NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_SECTION = re.compile(r"\[(?!DEFAULT\])([A-Za-z0-9_.@ -]+)\]")
_KEY_LINE = re.compile(rf"({'|'.join(_KEY_NAMES)}) *= *([!-~]+)")
_PROFILE = re.compile(r"\[(default|profile (?!default\])[A-Za-z0-9_.@-]+)\]")
_CONFIG_LINE = re.compile(r"(region|output) *= *([!-~]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticS3Config:
    """The connection to a bucket, as the SDK would make it.

    Attributes:
        endpoint_url: the server, or "" for Amazon's own.
        region: what requests are signed for.
        ca_bundle: file with the certificates to trust, or "" for the default.
        credentials: None where requests are not signed.
        checksums: which checksum headers requests carry.
    """

    endpoint_url: str
    region: str
    ca_bundle: str
    credentials: Credentials | None
    checksums: ChecksumUse = USUAL


def named_endpoint(target: S3Target) -> str:
    """The endpoint of the option, else of the environment, or ""."""
    return (target.endpoint_url or endpoint_from_environment(os.environ)).rstrip("/")


def known_connection(target: S3Target) -> StaticS3Config | None:
    """The SDK's decision for `target`, or None where only the SDK can make it. Blocking: looks for files.

    Raises:
        CredentialsError: creds_path is unusable.
        ConfigError: a checksum setting that is none of the SDK's.
    """
    said = os.environ
    if target.profile or is_special(target.bucket):
        return None
    if any(name.startswith("AWS_") and name not in USED and name not in HARMLESS for name in said):
        return None
    endpoint = named_endpoint(target)
    profile = _default_profile(said)
    if profile is None or not _plain_endpoint(endpoint) or _proxied(endpoint, said):
        return None
    # The SDK for Python reads AWS_DEFAULT_REGION only; those for Go and Rust and the command line read AWS_REGION.
    usual = said.get("AWS_REGION") or said.get("AWS_DEFAULT_REGION", profile.get("region", SDK_REGION))
    region = _region(target, endpoint, usual)
    if not region:
        return None
    ca_bundle = target.ca_bundle or said.get("AWS_CA_BUNDLE", said.get("REQUESTS_CA_BUNDLE"))
    if ca_bundle == "":
        # To the SDK this is neither a file nor the default.
        return None
    credentials = None
    if not target.anonymous:
        credentials = read_credentials_file(target.creds_path) if target.creds_path else _key_pair(said, profile)
        if credentials is None:
            return None
    return StaticS3Config(
        endpoint_url=endpoint,
        region=region,
        ca_bundle=ca_bundle or "",
        credentials=credentials,
        checksums=checksum_use({name: said.get(f"AWS_{name.upper()}") for name in SETTINGS}),
    )


def _region(target: S3Target, endpoint: str, usual: str) -> str:
    """The region, or "" where it is not certain."""
    if not endpoint:
        # The region of a bucket at Amazon is certain only where the option names it.
        return target.region if _AMAZON_REGION.fullmatch(target.region) else ""
    region = target.region or usual
    return region if _REGION.fullmatch(region) and not _SPECIAL_REGION.search(region) else ""


def _plain_endpoint(endpoint: str) -> bool:
    if not endpoint:
        return True
    if _ENDPOINT.fullmatch(endpoint) is None:
        return False  # reported where a client is opened
    parts = urlsplit(endpoint)
    try:
        _ = parts.port
    except ValueError:
        return False  # beyond 65535
    return not (parts.hostname or "").endswith(_AMAZON_HOSTS)


def _key_pair(said: Mapping[str, str], profile: Mapping[str, str]) -> Credentials | None:
    """The environment's key pair, which comes first, or the default profile's; None where it is not whole."""
    values = [said.get(name.upper(), "") for name in _KEY_NAMES]
    if not any(name.upper() in said for name in _KEY_NAMES):
        values = [profile.get(name, "") for name in _KEY_NAMES]
    key_id, secret, token = values
    if not key_id or not secret or not all(value.isascii() and value.isprintable() for value in values):
        return None
    return Credentials(
        access_key_id=key_id,
        secret_access_key=Secret(secret.encode()),
        session_token=Secret(token.encode()) if token else None,
    )


def _default_profile(said: Mapping[str, str]) -> dict[str, str] | None:
    """The default profile, or None where the shared files hold more than key pairs, regions and output formats."""
    if os.path.isdir(_expanded("~/.aws/models")):
        return None
    config = _expanded(said.get("AWS_CONFIG_FILE", "~/.aws/config"))
    shared = _expanded(said.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    told = _plain_sections(config, _PROFILE, _CONFIG_LINE)
    keys = _plain_sections(shared, _SECTION, _KEY_LINE)
    return None if told is None or keys is None else told.get("default", {}) | keys.get("default", {})


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))


def _plain_sections(path: str, section: re.Pattern[str], line_of: re.Pattern[str]) -> dict[str, dict[str, str]] | None:
    """The sections of a file that has no lines but those of the two patterns, and none twice; else None."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode):
            return {}  # /dev/null is a usual way to have none
        if not stat.S_ISREG(mode):
            return None  # reported where a client is opened
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        return None
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(FILE_CHARACTERS_MAX)
    except (OSError, UnicodeDecodeError):
        return None
    sections: dict[str, dict[str, str]] = {}
    values: dict[str, str] | None = None
    for line in (whole.rstrip(" ") for whole in text.split("\n")):
        if not line or line.startswith(("#", ";")):
            continue
        begins, says = section.fullmatch(line), line_of.fullmatch(line)
        if begins is not None and begins[1] not in sections:
            values = sections[begins[1]] = {}
        elif values is not None and says is not None and says[1] not in values:
            values[says[1]] = says[2]
        else:
            return None
    return sections if len(text) < FILE_CHARACTERS_MAX else None


def _proxied(endpoint: str, said: Mapping[str, str]) -> bool:
    """Whether a proxy may stand between us and the endpoint."""
    if sys.platform not in ("darwin", "win32"):
        named = [name.lower() for name, value in said.items() if value]
        scheme = "https" if not endpoint else urlsplit(endpoint).scheme
        if f"{scheme}_proxy" not in named:
            return False
        if "no_proxy" not in named:
            return True
    # Loading this takes the time that this module saves, so only where there are proxies, or a system setting may name
    # some.
    from urllib.request import getproxies, proxy_bypass

    return bool(getproxies()) and not (endpoint and proxy_bypass(urlsplit(endpoint).netloc))
