"""The AWS SDK's session and its chain of credentials, with every exception translated into an error of asyncsink.

`NamedChain` queries each provider, and `GuardedCredentials` reads the keys found, at the opening and at every renewal
in a run. No exception of botocore, aiohttp, a credential process or a file passes either.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import inspect
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Final

import anyio

from asyncsink.errors import ConfigError, CredentialsError
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.credentials.errors import CredentialSource, configuration_error, credentials_error, no_credentials
from asyncsink.s3.credentials.file import BucketSettings, Credentials, check_keys, lost, read_credentials_file

KILLED_SECONDS_MAX: Final = 5.0
"""Seconds to wait for the end of a credential process after it was killed."""
CONFIG_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger file is no configuration file of the AWS SDK."""
_DEADLINE: ContextVar[tuple[asyncio.Timeout, float]] = ContextVar("_DEADLINE")
"""The deadline of the answer that the current task awaits, and its length in seconds."""
_SHARED_FILES: Final = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))


def new_session(target: S3Target, settings: BucketSettings, retry: RetryPolicy, *, ask: bool) -> Any:
    """An aioboto3 session for `target`, whose chain of credentials raises errors of asyncsink. Blocking: reads files.

    Args:
        target: its profile and creds_path apply.
        settings: of a caller's bucket, whose credentials apply where neither is given.
        retry: credentials_seconds is the longest wait for a provider's answer.
        ask: whether a role may prompt for its MFA code at a terminal.

    Raises:
        CredentialsError, ConfigError: a file, a profile or a variable cannot be used.
    """
    import aioboto3

    check_shared_files(os.environ)
    credentials: Credentials | None = None
    if target.creds_path:
        credentials = read_credentials_file(target.creds_path)
    elif not target.profile:
        credentials = settings.credentials
    token = credentials.session_token if credentials is not None else None
    with translated_configuration():
        session = aioboto3.Session(
            profile_name=(target.profile or None) if credentials is None else None,
            aws_access_key_id=credentials.access_key_id if credentials is not None else None,
            aws_secret_access_key=credentials.secret_access_key.reveal().decode() if credentials is not None else None,
            aws_session_token=token.reveal().decode() if token is not None else None,
            region_name=os.environ.get("AWS_REGION") or None,
        )
    if credentials is None:
        core = session._session
        with translated_configuration(session):
            resolver = core.get_component("credential_provider")
            core.register_component("credential_provider", NamedChain(core, resolver.providers, retry, ask=ask))
    return session


@contextmanager
def translated_configuration(session: Any = None) -> Iterator[None]:
    """Within the block, every exception but asyncsink's own becomes a ConfigError or CredentialsError.

    Args:
        session: its profile and files are named in the message; None while there is none.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - files and plug-ins of the SDK may raise anything
        # Causes may quote the content of a file.
        raise configuration_error(error, partial(source_of, session) if session is not None else None) from None


class NamedChain:
    """botocore's chain of credential providers, with the provider's name in every failure.

    Args:
        core: the botocore session.
        providers: botocore's, in their order.
        retry: credentials_seconds bounds each answer.
        ask: as in `new_session`.
    """

    def __init__(self, core: Any, providers: list[Any], retry: RetryPolicy, *, ask: bool) -> None:
        self.providers = providers
        self._source = _source(core)
        self._seconds = retry.credentials_seconds
        for provider in providers:
            if hasattr(provider, "_popen"):
                provider._popen = _start_program
            if hasattr(provider, "_prompter"):
                provider._prompter = _ask_for_code if ask else _refuse_code
            if (builder := getattr(provider, "_profile_provider_builder", None)) is not None:
                # A role's source_profile may name a command too.
                builder._create_process_provider = partial(_process_provider, core)

    def __repr__(self) -> str:
        return f"<NamedChain of {len(self.providers)} providers>"

    async def load_credentials(self) -> GuardedCredentials | None:
        """The credentials of the first provider that has some, or None.

        Raises:
            CredentialsError, ConfigError: a provider is set up, and its credentials cannot be had.
        """
        for provider in self.providers:
            source = replace(self._source, method=provider.METHOD or "")
            async with self.answering(source):
                held = await provider.load()
            if held is not None:
                return GuardedCredentials(held, source, self)
        return None

    @asynccontextmanager
    async def answering(self, source: CredentialSource) -> AsyncIterator[None]:
        """A block in which `source` must answer within the limit, and whose exceptions become asyncsink's."""
        deadline = asyncio.timeout(self._seconds)
        outer = _DEADLINE.set((deadline, self._seconds))
        try:
            async with deadline:
                yield
        except Exception as error:  # noqa: BLE001 - a provider may raise anything
            expired = isinstance(error, TimeoutError) and deadline.expired()
            # The cause's text may quote the output of a credential process, so it is dropped.
            raise credentials_error(error, source, seconds=self._seconds if expired else 0.0) from None
        finally:
            _DEADLINE.reset(outer)


class GuardedCredentials:
    """botocore's credentials, with errors of asyncsink only: CredentialsError where there never were any, and
    ExpiredCredentials where they cannot be renewed. Every other attribute is botocore's."""

    def __init__(self, held: Any, source: CredentialSource, chain: NamedChain) -> None:
        self._held = held
        self._source = source
        self._chain = chain
        self._given = False
        self._frozen: Any = None

    def __repr__(self) -> str:
        return f"<GuardedCredentials from {self._source.method}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._held, name)

    async def get_frozen_credentials(self) -> Any:
        """The current keys, renewed first where that is due."""
        try:
            async with self._chain.answering(self._source):
                frozen = self._held.get_frozen_credentials()
                if inspect.isawaitable(frozen):
                    frozen = await frozen
                check_keys(frozen, self._source)
        except ConfigError as error:
            if self._given:
                raise lost(error) from None
            raise
        if not self._given or frozen != self._frozen:
            # Registered as secrets, so that no text shows them from now on.
            for value in filter(None, (frozen.secret_key, frozen.token)):
                Secret(value.encode())
        self._given, self._frozen = True, frozen
        return frozen


class _Program:
    """A credential process, killed where the wait for its answer ends early."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        try:
            return await self._process.communicate()
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                # Its child processes may hold its pipes open, and wait() returns only when these are closed.
                self._process._transport.close()  # type: ignore[attr-defined]
                with anyio.move_on_after(KILLED_SECONDS_MAX, shield=True):
                    await self._process.wait()


async def _start_program(*command: str, **named: Any) -> _Program:
    """`asyncio.create_subprocess_exec`; the program reads a terminal where there is one, never a source on stdin."""
    if sys.stdin is None or not sys.stdin.isatty():
        named.setdefault("stdin", subprocess.DEVNULL)
    return _Program(await asyncio.create_subprocess_exec(*command, **named))


def check_shared_files(environment: Mapping[str, str]) -> None:
    """Refuse shared files that exist and cannot be read: botocore treats some of them as absent, or hangs.

    Raises:
        CredentialsError: names the file, and the line where there is one.
    """
    for variable, usual in _SHARED_FILES:
        named = environment.get(variable)
        path = os.path.expanduser(os.path.expandvars(named or usual))
        if not named and not os.path.exists(path):
            continue  # also where the home directory is another user's, as in a container
        try:
            kind = stat.S_IFMT(os.stat(path).st_mode)
            if kind in (stat.S_IFREG, stat.S_IFCHR):  # /dev/null is a usual way to have none
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
                with os.fdopen(descriptor, "rb") as file:
                    content = file.read(CONFIG_FILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is not valid"
            raise _unreadable(path, variable, reason) from None
        if kind not in (stat.S_IFREG, stat.S_IFCHR):
            raise _unreadable(path, variable, "it is a directory" if kind == stat.S_IFDIR else "it is no regular file")
        if len(content) > CONFIG_FILE_BYTES_MAX:
            raise _unreadable(path, variable, f"it has more than {CONFIG_FILE_BYTES_MAX:,} bytes")
        _check_text(content, path, variable)


def _check_text(content: bytes, path: str, variable: str) -> None:
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _unreadable(path, variable, "line 1 begins with a byte-order mark; save it as UTF-8 without one")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, variable, f"line {line} is no UTF-8; save it as UTF-8") from None


def _unreadable(path: str, variable: str, reason: str) -> CredentialsError:
    return CredentialsError(
        f"The AWS configuration file {path!r} cannot be read: {reason}. Repair it, or name another by {variable}."
    )


def none_found() -> CredentialsError:
    """The error for a chain in which no provider has credentials."""
    return no_credentials(os.environ)


def source_of(session: Any) -> CredentialSource:
    """The profile and the files that a session reads."""
    return _source(session._session)


def _source(core: Any) -> CredentialSource:
    profiles = core.full_config.get("profiles", {})
    profile = core.get_config_variable("profile") or "default"
    return CredentialSource(
        method="",
        profile=profile,
        settings=profiles.get(profile, {}),
        config_file=core.get_config_variable("config_file"),
        credentials_file=core.get_config_variable("credentials_file"),
        environment=os.environ,
    )


def _process_provider(core: Any, profile_name: str) -> Any:
    from aiobotocore.credentials import AioProcessProvider

    return AioProcessProvider(profile_name=profile_name, load_config=lambda: core.full_config, popen=_start_program)


def _ask_for_code(prompt: str) -> str:
    """The MFA code, from a prompt at the terminal; the prompt has no time limit."""
    if not _has_terminal():
        return _refuse_code(prompt)
    code = getpass.getpass(prompt)
    deadline, seconds = _DEADLINE.get()
    deadline.reschedule(asyncio.get_running_loop().time() + seconds)
    return code


def _refuse_code(prompt: str) -> str:
    device = prompt.rpartition(" for ")[2].rstrip(": ")
    raise CredentialsError(
        f"The role needs an MFA code of {device}, and there is no terminal to ask for it; log in before, and give the "
        "temporary credentials (aws sts assume-role, aws sts get-session-token), or a profile without mfa_serial."
    )


def _has_terminal() -> bool:
    """Whether a person can be prompted: the process has a terminal of its own, and stdin or stderr is one."""
    shown = any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return shown
