"""DataSink's attribute notation: string[[.[@]]string[[.[@]]string]] (Nipype rules 8 to 12)."""

from __future__ import annotations

from asyncsink.config import Compat
from asyncsink.errors import RoutingError
from asyncsink.routing.keys import show

RESERVED_ATTRIBUTES = frozenset(
    {
        "_outputs",
        "base_directory",
        "bucket",
        "container",
        "creds_path",
        "encrypt_bucket_keys",
        "local_copy",
        "parameterization",
        "regexp_substitutions",
        "remove_dest_dir",
        "strip_dir",
        "substitutions",
    }
)
"""The names of DataSink's own inputs; in Nipype, assigning to one sets the input and publishes nothing (rule 8)."""


def check_attribute_name(attribute: str) -> None:
    """Raise RoutingError for the name of one of DataSink's own inputs (rule 8), or for something that is no str."""
    if not isinstance(attribute, str):
        raise RoutingError(
            f"The output attribute {attribute!r} is of type {type(attribute).__name__}; "
            "expected a str such as 'contrasts.@con'."
        )
    if attribute in RESERVED_ATTRIBUTES:
        raise RoutingError(
            f"The output attribute {attribute!r} is the name of a DataSink input; pass it as the option of that name, "
            "or choose another attribute for these files."
        )


def parse_attribute(attribute: str, compat: Compat = "strict") -> tuple[str, ...]:
    """The folders that an attribute names, in order; () publishes into the container itself.

    The attribute is split at "."; a component that starts with "@" names no folder, wherever it stands (rule 9).

    Args:
        attribute: "motion", "contrasts.@con", "@", …
        compat: "nipype" lets a component start with "/" (what that means is the Router's business, rule 11).

    Raises:
        RoutingError: the attribute is reserved (8), has an empty component (10, and so ".." too, 12), or in strict
            mode a component that starts with "/" (11).
    """
    check_attribute_name(attribute)
    components = attribute.split(".")
    if "" in components:
        raise RoutingError(
            f"The output attribute {show(attribute)} has an empty component; "
            "expected names separated by single dots, such as 'contrasts.@con'."
        )
    if compat == "strict":
        for component in components:
            if component.startswith("/"):
                raise RoutingError(
                    f"The component {show(component)} of the output attribute {show(attribute)} starts with '/', "
                    "which would discard base_directory; write it without the '/'."
                )
    return tuple(component for component in components if not component.startswith("@"))
