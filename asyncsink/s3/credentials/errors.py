"""Errors about credentials and configuration: any exception of the AWS SDK as one sentence.

The sentence names the source (a file, a command, a variable) and the remedy. Texts of exceptions are repeated only as
far as they are known to hold no secret: a credential process, a metadata service and a damaged file can each put one
into an exception's text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final
from urllib.parse import urlsplit

from asyncsink.errors import ConfigError, CredentialsError
from asyncsink.s3.errors_map import one_line
from asyncsink.value import dataclass

HOW_TO_LOG_IN: Final = (
    "Give creds_path= or profile=, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or say anonymous=True for a public bucket."
)
CONTAINER_FULL: Final = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
CONTAINER_RELATIVE: Final = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
CONTAINER_TOKEN_FILE: Final = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 - a variable's name
WEB_IDENTITY_FILE: Final = "AWS_WEB_IDENTITY_TOKEN_FILE"

_KNOWN_TEXTS: Final = (
    (r"[Rr]eceived non 200 response[^0-9]{0,40}(\d{3})", "it answered with HTTP status {0}"),
    (r"non[- ]?200[^0-9]{0,40}(\d{3})", "it answered with HTTP status {0}"),
    (r"[Uu]nable to parse JSON", "what it answered is no JSON"),
    (r"Unsupported version '([\w .-]{1,20})'", "it says Version {0!r}; expected 1"),
    (r"Missing required key in response: '(\w{1,40})'", "its answer has no {0}"),
    (r"Unsupported host '([\w.:-]{1,100})'", "the host {0!r} is not allowed there over plain HTTP"),
    (r"legal header value", "the token holds a line break, or another character that no header can hold"),
    (r"Invalid (?:endpoint|URI|URL)", "its address is malformed"),
    (r"endpoint URL: \"(https?://[\w.:\[\]-]{1,200})", "{0} cannot be reached"),
    (r"connect timeout|Connect timeout|Read timeout|timed out", "it did not answer in time"),
    (r"(?:has expired|is expired|or is otherwise invalid|does not exist)", "there is no valid login"),
    (r"(?:missing required configuration|configured to use SSO)", "its SSO settings are incomplete"),
)
"""botocore's texts that quote other sources; only what is captured is repeated. Compiled when there is an error to
explain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSource:
    """The origin of credentials, as far as it is known before they are loaded.

    Attributes:
        method: botocore's name of the provider ("custom-process"), or "".
        profile: the profile in use.
        settings: the profile's own, from both files.
        config_file, credentials_file: the shared files in use.
        environment: the process's environment.
    """

    method: str
    profile: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config_file: str = "~/.aws/config"
    credentials_file: str = "~/.aws/credentials"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The profile and its file, for a sentence."""
        return f"profile {self.profile!r} in {self.config_file}"

    @property
    def name(self) -> str:
        """For a sentence: 'the credential_process …'."""
        where = self.place
        match self.method:
            case "env":
                return "the environment (AWS_ACCESS_KEY_ID)"
            case "custom-process":
                return f"the credential_process{self._program()} of {where}"
            case "assume-role":
                return f"the role{self._said('role_arn')} of {where}"
            case "assume-role-with-web-identity":
                return f"the web identity role ({self._web_identity(where)})"
            case "sso":
                return f"the SSO login of {where}"
            case "container-role":
                return f"the container's credentials service ({self._container()})"
            case "iam-role":
                return "the instance metadata service"
            case "shared-credentials-file":
                return f"profile {self.profile!r} in {self.credentials_file}"
            case "config-file":
                return where
            case "explicit":
                return "the caller's own client"
            case "":
                return "their provider"
        return f"the provider {self.method!r}"

    @property
    def advice(self) -> str:
        """The remedy, as a sentence."""
        match self.method:
            case "custom-process":
                return (
                    "Run it in a terminal: it must print one JSON object with Version 1, AccessKeyId, SecretAccessKey "
                    "and, as 2026-01-31T23:59:59Z, Expiration."
                )
            case "assume-role":
                return "Check role_arn, source_profile and the profile that it names."
            case "assume-role-with-web-identity":
                return f"Check {WEB_IDENTITY_FILE} and AWS_ROLE_ARN, or the profile's settings of these names."
            case "sso":
                return f"Log in: aws sso login --profile {self.profile}"
            case "container-role":
                return f"Check {CONTAINER_FULL}, {CONTAINER_RELATIVE} and {CONTAINER_TOKEN_FILE}."
            case "iam-role":
                return "Check the instance's role, or set AWS_EC2_METADATA_DISABLED=true and give other credentials."
        return "Check the profile, file or variable that they come from."

    def _said(self, name: str) -> str:
        value = self.settings.get(name)
        return f" {one_line(value)!r}" if isinstance(value, str) else ""

    def _program(self) -> str:
        """The command's first word: the rest may hold a password."""
        value = self.settings.get("credential_process")
        words = value.split() if isinstance(value, str) else []
        return f" {one_line(words[0])!r}" if words else ""

    def _web_identity(self, where: str) -> str:
        if WEB_IDENTITY_FILE in self.environment and "web_identity_token_file" not in self.settings:
            return f"{WEB_IDENTITY_FILE}={one_line(self.environment[WEB_IDENTITY_FILE])!r}"
        return f"web_identity_token_file{self._said('web_identity_token_file')} of {where}"

    def _container(self) -> str:
        name = CONTAINER_RELATIVE if CONTAINER_RELATIVE in self.environment else CONTAINER_FULL
        words = [f"{name}={_plain_url(self.environment.get(name, ''))!r}"]
        if CONTAINER_TOKEN_FILE in self.environment:
            words.append(f"{CONTAINER_TOKEN_FILE}={one_line(self.environment[CONTAINER_TOKEN_FILE])!r}")
        return ", ".join(words)


def credentials_error(error: Exception, source: CredentialSource, *, seconds: float = 0.0) -> ConfigError:
    """The error for any exception of a source of credentials; asyncsink's own are returned unchanged.

    Args:
        seconds: the time limit, where `error` is the TimeoutError of that limit.
    """
    if isinstance(error, ConfigError):
        return error
    from botocore import exceptions as b

    if isinstance(error, (b.NoCredentialsError, b.NoAuthTokenError)):
        return no_credentials(source.environment)
    if isinstance(error, b.PartialCredentialsError):
        provider, missing = error.kwargs.get("provider", ""), one_line(str(error.kwargs.get("cred_var", "")))
        of = source.name if provider in (source.method, "") else provider
        return CredentialsError(f"The credentials from {of} are incomplete: {missing} is missing.")
    if isinstance(error, (b.ProfileNotFound, b.ConfigParseError, b.ConfigNotFound)):
        return _file_error(error)
    reason, advice = _reason(error, source, seconds), source.advice
    return CredentialsError(f"The credentials from {source.name} cannot be had: {reason}. {advice}")


def configuration_error(error: Exception, source: Callable[[], CredentialSource] | None) -> ConfigError:
    """The error for any exception of making a session or a client from files, variables and options.

    Args:
        source: gives the profile and the files that were read, where they could be.
    """
    if isinstance(error, ConfigError):
        return error
    from botocore import exceptions as b

    if isinstance(error, (b.ProfileNotFound, b.ConfigParseError, b.ConfigNotFound)):
        return _file_error(error)
    found = source() if source is not None else None
    if isinstance(error, b.NoCredentialsError):
        return no_credentials(found.environment if found is not None else {})
    place = f"{found.place} and the AWS_ variables" if found is not None else "the options"
    words = one_line(str(error)) or type(error).__name__
    if isinstance(error, b.InvalidDefaultsMode):
        return ConfigError(
            f"The defaults mode {one_line(str(error.kwargs.get('mode', '')))!r} of AWS_DEFAULTS_MODE, or of "
            f"defaults_mode in {found.place if found is not None else 'the profile'}, is not known; expected one of "
            f"{one_line(str(error.kwargs.get('valid_modes', '')))}."
        )
    if isinstance(error, b.BotoCoreError) or (isinstance(error, ValueError) and "Invalid endpoint" in words):
        return ConfigError(f"The endpoint, region or another setting cannot be used: {words}. Check {place}.")
    if found is not None and (setting := _unconvertible(found)):
        return ConfigError(f"The setting {setting} cannot be used: {words}.")
    return ConfigError(f"The AWS configuration cannot be used ({type(error).__name__}: {words}). Check {place}.")


def _unconvertible(source: CredentialSource) -> str:
    """The variable, or the profile's line, whose value must be a number and is none; "" where there is no such."""
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as KNOWN

    for in_file, in_environment, _, convert in KNOWN.values():
        variables = [in_environment] if isinstance(in_environment, str) else in_environment or []
        said = [(name, source.environment[name]) for name in variables if name in source.environment]
        if in_file in source.settings:
            said.append((f"{in_file} of {source.place}", source.settings[in_file]))
        for name, value in said if convert is not None else ():
            try:
                convert(value)
            except (ValueError, TypeError):
                return name
    return ""


def no_credentials(environment: Mapping[str, str]) -> CredentialsError:
    """The error for missing credentials, with hints at settings that look like incomplete ones."""
    hints = []
    if environment.get("AWS_SECRET_ACCESS_KEY") and not environment.get("AWS_ACCESS_KEY_ID"):
        hints.append("AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID.")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        path = environment.get(name)
        if path and not os.path.exists(os.path.expanduser(os.path.expandvars(path))):
            hints.append(f"{name} names {path!r}, which does not exist.")
    return CredentialsError(" ".join(["There are no credentials.", *hints, HOW_TO_LOG_IN]))


def _file_error(error: Any) -> CredentialsError:
    from botocore import exceptions as b

    if isinstance(error, b.ProfileNotFound):
        profile = one_line(str(error.kwargs.get("profile", "")))
        return CredentialsError(f"The profile {profile!r} does not exist; see 'aws configure list-profiles'.")
    path, cause = error.kwargs.get("path", ""), error.kwargs.get("error")
    line = getattr(cause, "lineno", None) or next((number for number, _ in getattr(cause, "errors", ())), None)
    where = f", line {line}" if isinstance(line, int) else ""
    what = _FILE_FAULTS.get(type(cause).__name__, "it is no list of [sections] with lines NAME = VALUE")
    return CredentialsError(f"The AWS configuration file {path!r} cannot be read{where}: {what}; repair it.")


_FILE_FAULTS: Final = {
    "MissingSectionHeaderError": "a line stands before the first [section]",
    "DuplicateSectionError": "a [section] is there twice",
    "DuplicateOptionError": "a name is there twice in one [section]",
    "ParsingError": "a line is no NAME = VALUE",
    "ValueError": "a nested line is no NAME = VALUE",
}


def _reason(error: Exception, source: CredentialSource, seconds: float) -> str:
    from botocore import exceptions as b

    kwargs: Mapping[str, Any] = getattr(error, "kwargs", {})
    if isinstance(error, TimeoutError) and seconds:
        return f"it gave no answer within {seconds:g} s"
    if isinstance(error, OSError) and not isinstance(error, b.BotoCoreError):
        words = error.strerror or type(error).__name__
        return f"{error.filename!r} cannot be used ({words})" if error.filename else words
    if isinstance(error, b.ClientError):
        told = error.response.get("Error", {})
        said = ", ".join(one_line(str(told.get(name) or "")) for name in ("Code", "Message"))
        return f"{error.operation_name} was refused ({said})"
    if isinstance(error, b.ProxyConnectionError):
        return f"the proxy {_plain_url(str(kwargs.get('proxy_url', '')), path=False)} cannot be reached"
    if isinstance(error, b.SSLError):
        return f"the certificate of {_host(kwargs)} is not trusted"
    if isinstance(error, (b.HTTPClientError, b.ConnectionError)):
        return f"{_host(kwargs)} cannot be reached"
    if isinstance(error, b.InfiniteLoopConfigError):
        profiles = " -> ".join(one_line(str(each)) for each in (*kwargs.get("visited_profiles", ()),))
        return f"its source_profile leads back to itself ({profiles} -> {one_line(str(kwargs.get('source_profile')))})"
    quoting = (
        b.CredentialRetrievalError,
        b.TokenRetrievalError,
        b.MetadataRetrievalError,
        b.SSOTokenLoadError,
        b.ParamValidationError,
    )
    if isinstance(error, b.BotoCoreError) and not isinstance(error, quoting):
        return one_line(str(error))
    return _reason_in_text(error, source)


def _reason_in_text(error: Exception, source: CredentialSource) -> str:
    for pattern, words in _KNOWN_TEXTS:
        if found := re.search(pattern, str(error)):
            return words.format(*found.groups())
    name = type(error).__name__
    if name == "ParserError" or "Expiration" in str(error) or "isoformat" in str(error):
        return "the time in its Expiration cannot be read"
    if isinstance(error, UnicodeError):
        return "what it answered is no text in UTF-8"
    if name == "JSONDecodeError":
        return "what it answered is no JSON"
    if isinstance(error, (KeyError, AttributeError, TypeError)):
        return f"its answer is incomplete ({name})"
    if source.method == "custom-process" and name == "CredentialRetrievalError":
        return "the command failed"
    return name


def _host(kwargs: Mapping[str, Any]) -> str:
    url = str(kwargs.get("endpoint_url") or "")
    return _plain_url(url, path=False) or "the service"


def _plain_url(text: str, *, path: bool = True) -> str:
    """The URL without user, password and query, which may be secret."""
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(malformed)"
    return one_line((f"{parts.scheme}://{host}" if host else "") + (parts.path if path else ""))
