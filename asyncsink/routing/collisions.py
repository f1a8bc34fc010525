"""Two sources, one key: how that is said (Nipype rule 16)."""

from __future__ import annotations

from asyncsink.errors import KeyCollision
from asyncsink.routing.keys import show


def collision_error(key: str, first: str, second: str) -> KeyCollision:
    """The KeyCollision for two sources that were routed to one key.

    Args:
        key: the key, or its URL.
        first, second: absolute paths of the sources, in the order in which they were found.
    """
    if first == second:
        return KeyCollision(
            f"The source {show(first)} is named twice for the key {show(key)}; name it once, "
            "or set on_collision='last'."
        )
    return KeyCollision(
        f"The sources {show(first)} and {show(second)} would both be published as {show(key)}; give them different "
        "attributes or containers, keep parameterization=True, tell them apart with substitutions, "
        "or set on_collision='last' to publish only the second."
    )
