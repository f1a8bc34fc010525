"""The options of a single put: what its object is given, and what becomes of an existing one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from asyncsink.options.journal_choice import parse_journal
from asyncsink.options.parse import check_option_names, parse_objects, value_of
from asyncsink.options.schema import ObjectOptions, Overwrite, S3Target, Settings
from asyncsink.options.typed import PUT_OPTIONS, PutOptions
from asyncsink.value import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PutSettings:
    """The checked options of one put; None where it has none of the kind, and the sink's count."""

    objects: ObjectOptions | None = None
    overwrite: Overwrite | None = None


NO_OPTIONS: Final[PutOptions] = {}
_NONE_GIVEN: Final = PutSettings()


def parse_put_options(given: Mapping[str, Any], settings: Settings) -> PutSettings:
    """Check the options of one put, and merge them over the sink's `settings`.

    Raises:
        ConfigError: one is wrong, or does not go with another one or with the sink; the sentence is that of the sink's
            own option.
    """
    if not given:
        return _NONE_GIVEN
    check_option_names(given, PUT_OPTIONS, what="a put")
    given = {name: value for name, value in given.items() if value is not None}
    overwrite: Overwrite | None = value_of(given, "overwrite") if "overwrite" in given else None
    if overwrite == "journal" and not settings.journal.enabled:
        refused = {"overwrite": overwrite, "journal": False if isinstance(settings.target, S3Target) else None}
        parse_journal(refused, settings.target)
    if not given.keys() - {"overwrite"}:
        return PutSettings(overwrite=overwrite)
    return PutSettings(objects=_merged(given, settings.objects), overwrite=overwrite)


def _merged(given: Mapping[str, Any], of_sink: ObjectOptions) -> ObjectOptions:
    secret = of_sink.sse_customer_key
    kept: dict[str, Any] = {
        "content_type": of_sink.content_type,
        "metadata": dict(of_sink.metadata),
        "tags": dict(of_sink.tags),
        "storage_class": of_sink.storage_class,
        "sse": of_sink.sse if secret is None else secret.reveal(),
        "sse_kms_key_id": of_sink.sse_kms_key_id,
        "acl": of_sink.acl,
    }
    # Encryption is one thing in several options: another kind of it leaves the sink's behind.
    if given.get("encrypt_bucket_keys"):
        kept["sse"] = kept["sse_kms_key_id"] = ""
    elif "sse" in given and given["sse"] not in ("aws:kms", "aws:kms:dsse"):
        kept["sse_kms_key_id"] = ""
    return parse_objects({**kept, **given})
