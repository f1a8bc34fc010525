"""What botocore logs of requests and answers at DEBUG, without what must not be shown.

It writes down every header as it is sent: the session token and customer keys (SSE-C) among them. A filter on its
loggers costs nothing where nobody listens at that level.
"""

from __future__ import annotations

import logging
import re

_LOGGERS = ("botocore.endpoint", "botocore.auth", "botocore.parsers", "botocore.hooks", "botocore.retryhandler")
_SECRET = re.compile(
    r"""(?ix) ( (?: x-amz-security-token | [\w-]*server-side-encryption-customer-key(?:-md5)? | SSECustomerKey(?:MD5)? )
    ['"]? \s* [:=] \s* b? ['"]? ) (?! AES256) [A-Za-z0-9+/=_%-]+"""
)


class _Redacting(logging.Filter):
    """Lets every record pass, with an ellipsis in the place of each secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        told = record.getMessage()
        shown = _SECRET.sub(r"\1…", told)
        if shown != told:
            record.msg, record.args = shown, ()
        return True


_REDACTING = _Redacting()


def redact_logs() -> None:
    """Attach the filter. Calling it again is harmless."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_REDACTING)
