"""From the words of a command line to the library's options.

Messages name an option as a command line writes it. No message shows a key or a secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from asyncsink.cli.configured import parameter_of
from asyncsink.errors import ConfigError
from asyncsink.options.schema import PANELS, Option
from asyncsink.sources.base import open_description

CUSTOMER_KEY_BYTES = 32

_EQUALS = re.compile(r"(?<!\\)=")
_OPTIONS = [option for options in PANELS.values() for option in options]


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The library's options from the flags that were given. Reads the file of `--sse file:PATH`.

    Raises:
        ConfigError: a value is wrong; one sentence, naming the option.
    """
    options: dict[str, Any] = {}
    by_parameter = {parameter_of(option.switch): option for option in _OPTIONS if option.switch}
    for name, value in given.items():
        if name in by_parameter and value not in (None, False, [], ()):
            option = by_parameter[name]
            try:
                options[option.name] = _READERS.get(option.kind, _as_written)(value, option)
            except ConfigError as error:
                raise error.about(option.name) from error.__cause__
    for option in _OPTIONS:
        if option.off and given.get(parameter_of(option.off)):
            if options.get(option.name):
                raise ConfigError(f"{option.switch} and {option.off} contradict each other; give one of them.")
            options[option.name] = False
    return options


def _as_written(value: Any, option: Option) -> Any:
    return value if option.sets is None else option.sets


def _sse(value: str, _: Option) -> str | bytes:
    if value.startswith("file:"):
        return read_customer_key(value.removeprefix("file:"))
    if value not in ("AES256", "aws:kms", "aws:kms:dsse"):
        # The value may be a key that was pasted by mistake, so it is not repeated.
        raise ConfigError(
            "--sse is of no known kind; expected AES256, aws:kms, aws:kms:dsse, or file:PATH of a customer key."
        )
    return value


def _pairs(texts: Iterable[str], option: Option) -> list[tuple[str, str]]:
    return [split_pair(text, option.switch, option.metavar) for text in texts]


def _mapping(texts: Iterable[str], option: Option) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _pairs(texts, option):
        if name in found:
            raise ConfigError(f"{option.switch} {name!r} is given twice; give every name one value.")
        found[name] = value
    return found


def _infields(texts: Iterable[str], option: Option) -> dict[str, str | list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in _pairs(texts, option):
        values.setdefault(name, []).append(value)
    return {name: each[0] if len(each) == 1 else each for name, each in values.items()}


def _arguments(text: str, option: Option) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(
            f"""{option.switch} {text:.60} is no JSON; expected '{{"func": [["sub-01", "run-1"]]}}'."""
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"""{option.switch} is no JSON object; expected '{{"func": [["sub-01", "run-1"]]}}'.""")
    return found


_SET = re.compile(r"(?s)(.+?):(storage[_-]class|content[_-]type|acl|sse[_-]kms[_-]key[_-]id|sse|tag|metadata)=(.*)")
_OF_MANY = {"tag": "tags", "metadata": "metadata"}


def _object_options(texts: Iterable[str], option: Option) -> dict[str, dict[str, Any]]:
    """{pattern: {name: value}}; a pattern that comes again adds to its values."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        match = _SET.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"{option.switch} {text!r} is malformed; expected PATTERN:NAME=VALUE, as '*.nii.gz:storage-class="
                "GLACIER_IR'; NAME is storage-class, content-type, acl, sse, sse-kms-key-id, tag or metadata."
            )
        pattern, name, value = match[1], match[2].replace("-", "_"), match[3]
        said = found.setdefault(pattern, {})
        if name in _OF_MANY:
            inner, inner_value = split_pair(value, f"{option.switch} {pattern}:{name}", "NAME=VALUE")
            said.setdefault(_OF_MANY[name], {})[inner] = inner_value
        elif name in said:
            raise ConfigError(f"{option.switch} gives {pattern!r} two values of {match[2]}; give it one.")
        else:
            said[name] = value
    return found


def _listing(value: str, option: Option) -> str:
    if value == "-":
        raise ConfigError(f"{option.switch} is -, and a list is read more than once; give a file of paths.")
    return value


_READERS: dict[str, Callable[[Any, Option], Any]] = {
    "object_options": _object_options,
    "listing": _listing,
    "sse": _sse,
    "pairs": _pairs,
    "mapping": _mapping,
    "templates": lambda texts, option: dict(_pairs(texts, option)),
    "infields": _infields,
    "arguments": _arguments,
}


def split_pair(text: str, flag: str, form: str) -> tuple[str, str]:
    r"""OLD=NEW as a pair, split at the first `=` that no backslash precedes; `\=` stands for `=` on both sides.

    Raises:
        ConfigError: there is no such `=`, or nothing before it.
    """
    parts = _EQUALS.split(text, maxsplit=1)
    if len(parts) != 2 or not parts[0]:
        raise ConfigError(rf"{flag} {text!r} is malformed; expected {form}, where a = inside the first is written \=.")
    left, right = (part.replace(r"\=", "=") for part in parts)
    return left, right


def read_customer_key(path: str) -> bytes:
    """The 32 bytes of a customer key (SSE-C) from a file that holds them raw or in base64. Blocking.

    Raises:
        ConfigError: the file cannot be read, or holds something else; its content is not shown.
    """
    with open_description(str(Path(path).expanduser()), "The customer key file of --sse") as file:
        try:
            content = file.read(1024)
        except OSError as error:
            raise ConfigError(
                f"The customer key file of --sse, {path!r}, cannot be read ({error.strerror})."
            ) from error
    if len(content) == CUSTOMER_KEY_BYTES:
        return content
    try:
        key = base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != CUSTOMER_KEY_BYTES:
        raise ConfigError(
            f"The customer key file of --sse, {path!r}, holds no key; expected {CUSTOMER_KEY_BYTES} bytes, raw or in "
            "base64; make one with: openssl rand -out FILE 32."
        )
    return key
