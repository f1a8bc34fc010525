"""What is secret does not show, whoever repeats it: a server, a proxy, or botocore's logs at DEBUG.

A text is compared with every secret that this process has made (`config.known_secrets`): as it is, in base64 (also
within other base64), in hexadecimal, and as what percent, XML and JSON escapes stand for; only letters and digits
count, in either case, so that line ends and dashes within do not help. A run of 23 of them is enough.

Where a text has one, none of the text is shown: what else stands there is not worth a guess.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from functools import lru_cache
from typing import Final

from asyncsink.config import known_secrets

HIDDEN: Final = "(not shown: it repeats a secret)"
SECRET_BYTES_MIN: Final = 8
"""Shorter ones are words of made-up accounts, which stand in texts by chance."""
ROUNDS_MAX: Final = 3
"""Escapes within escapes."""
LONG_BYTES_MIN: Final = 20
"""Shorter ones may stand in the keys of one's own objects."""
_GRAM, _STRIDE = 16, 8
_RAW_WINDOW, _RAW_STRIDE = 8, 4
_LETTERS: Final = re.compile(r"[^A-Za-z0-9]+")
_BACKSLASH: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[nrtbf])")
_PLAIN: Final = re.compile(r'"?[0-9a-f]{32}(-[0-9]{1,5})?"?|.{0,15}')
"""An ETag, and what is too short to be a secret."""
_SPACES: Final = b"\r\n\t "

_LOGGERS = (
    "aiobotocore.httpsession",
    "aiohttp.client",
    "asyncio",
    "botocore.auth",
    "botocore.client",
    "botocore.credentials",
    "botocore.endpoint",
    "botocore.handlers",
    "botocore.hooks",
    "botocore.httpchecksum",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retryhandler",
    "botocore.utils",
)
_OF_CREDENTIALS = ("aiobotocore.credentials", "aiobotocore.tokens", "botocore.credentials", "botocore.tokens")
_SHOWING = r"""(?ix)
    ( (?: x-amz-security-token | [\w-]*server-side-encryption-customer-key(?:-md5)? | SSECustomerKey(?:MD5)? )
    ['"]? \s* [:=] \s* b? ['"]? ) (?! AES256) [A-Za-z0-9+/=_%-]+"""


class _Needles:
    """What to look for, made once for the secrets that are known."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self.short: set[str] = set()
        self.grams: set[str] = set()
        self.raw: set[bytes] = set()
        self.exact: list[str] = []
        self.has_key = False
        for secret in secrets:
            if len(secret) >= SECRET_BYTES_MIN:
                self._add(secret)

    def _add(self, secret: bytes) -> None:
        texts = [base64.b64encode(secret), secret.hex().encode()]
        if secret.isascii() and secret.decode().isprintable():
            texts.append(secret)
        else:
            plain = secret.translate(None, _SPACES)
            self.raw |= {
                plain[at : at + _RAW_WINDOW] for at in range(0, max(1, len(plain) - _RAW_WINDOW + 1), _RAW_STRIDE)
            }
        if len(secret) == 32:
            self.has_key = True
            digest = hashlib.md5(secret, usedforsecurity=False).digest()
            texts += [base64.b64encode(digest), digest.hex().encode()]
        if len(secret) >= LONG_BYTES_MIN:
            within = [_within_base64(text, shift) for text in texts for shift in range(3)]
            self.exact += [form.lower() for text in texts for form in (text.decode(), text.hex())]
            self.exact += [form.lower() for form in within]
        for text in texts:
            self._add_form(text.decode())
            self._add_form(text.hex())
            for shift in range(3):
                self._add_form(_within_base64(text, shift))

    def _add_form(self, text: str) -> None:
        form = _letters(text)
        if len(form) < _GRAM + _STRIDE:
            if len(form) >= SECRET_BYTES_MIN:
                self.short.add(form)
            return
        self.grams |= {form[at : at + _GRAM] for at in range(0, len(form) - _GRAM + 1, _STRIDE)}

    def are_in(self, text: str) -> bool:
        """Whether one of them is in a text as it is."""
        letters = _letters(text)
        if any(form in letters for form in self.short):
            return True
        grams = self.grams
        if grams and any(letters[at : at + _GRAM] in grams for at in range(len(letters) - _GRAM + 1)):
            return True
        if self.raw and not text.isascii():
            for data in (text.encode("utf-8", "surrogateescape"), text.encode("latin-1", "ignore")):
                plain = data.translate(None, _SPACES)
                if any(window in plain for window in self.raw):
                    return True
        return False


@lru_cache(maxsize=4)
def _needles(secrets: tuple[bytes, ...]) -> _Needles:
    return _Needles(secrets)


def holds_secret(text: str) -> bool:
    """Whether a text from elsewhere holds a secret of this process, in whatever form."""
    needles = _needles(known_secrets())
    for _ in range(ROUNDS_MAX):
        if needles.are_in(text):
            return True
        plain = _unescaped(text)
        if plain == text:
            return False
        text = plain
    return needles.are_in(text)


def shown(text: str) -> str:
    """The text, or HIDDEN where it holds a secret."""
    return HIDDEN if text and holds_secret(text) else text


def kept(value: str) -> str:
    """A value of an answer (an ETag, a version id), or "" where it holds a secret. Cheap for usual ones."""
    if _PLAIN.fullmatch(value) and not _needles(known_secrets()).has_key:
        return value
    return "" if holds_secret(value) else value


def keys_hold_secret(text: str) -> bool:
    """Whether a key, or many, hold a secret of LONG_BYTES_MIN or more. Cheap, also for the keys of a whole page."""
    lower = text.lower()
    return any(form in lower for form in _needles(known_secrets()).exact)


def _letters(text: str) -> str:
    return _LETTERS.sub("", text).lower()


def _within_base64(text: bytes, shift: int) -> str:
    """How base64 writes the text behind `shift` other bytes, without what the bytes around it change."""
    written = base64.b64encode(b"\0" * shift + text).decode()
    end = len(written) - (4 if (shift + len(text)) % 3 else 0)
    return written[(0, 2, 3)[shift] : end]


def _unescaped(text: str) -> str:
    if "%" in text:
        from urllib.parse import unquote

        text = unquote(text, encoding="latin-1")
    if "&" in text:
        from html import unescape

        text = unescape(text)
    if "\\" in text:
        text = _BACKSLASH.sub(lambda found: chr(int(found[1][1:], 16)) if found[1][0] in "ux" else " ", text)
    return text


class _Redacting(logging.Filter):
    """Lets every record pass, with an ellipsis in the place of each secret, or without its text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        told = record.getMessage()
        visible = shown(re.sub(_SHOWING, r"\1…", told))
        if visible != told:
            record.msg, record.args = visible, ()
        if record.exc_info and record.exc_info[1] is not None and holds_secret(repr(record.exc_info[1])):
            record.exc_info = record.exc_text = None
        return True


class _Untraced(logging.Filter):
    """Lets every record pass without its exception, which may quote what a credential process or a service said."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        record.exc_info = record.exc_text = None
        return True


_REDACTING = _Redacting()
_UNTRACED = _Untraced()


def redact_logs() -> None:
    """Attach the filter. Calling it again is harmless."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_REDACTING)
    for name in _OF_CREDENTIALS:
        logging.getLogger(name).addFilter(_UNTRACED)
