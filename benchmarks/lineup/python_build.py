"""Which Python this is and how it was built, as one JSON object: python -I python_build.py. Standard library only."""

from __future__ import annotations

import contextlib
import json
import platform
import ssl
import sys
import sysconfig
import time


def describe() -> dict[str, object]:
    """Version, what its configure line and flags tell of optimizations, and how fast it is at calls."""
    configure = str(sysconfig.get_config_var("CONFIG_ARGS") or "").replace("'", "").split()
    return {
        "version": f"{platform.python_implementation()} {platform.python_version()}",
        "pgo": pgo_of(configure),
        "configure": [word for word in configure if word.startswith("--") and "/" not in word],
        "optimization": str(sysconfig.get_config_var("OPT") or ""),
        "million_calls_ms": _million_calls_ms(),
        "openssl": ssl.OPENSSL_VERSION,
    }


def pgo_of(configure: list[str]) -> str:
    """Whether this Python was built with profile-guided optimization, as far as it tells."""
    if "--enable-optimizations" in configure:
        return "yes" + (", LTO" if any(word.startswith("--with-lto") for word in configure) else "")
    with contextlib.suppress(OSError):
        name = platform.freedesktop_os_release()["ID"]
        if sys.base_prefix == "/usr" and name in ("debian", "ubuntu"):
            return f"yes, {name.title()}'s own rules"  # its configure line does not tell
    return "no"


def _million_calls_ms() -> float:
    """Builds of one version differ by a half here, profile-guided or not."""

    def call(number: int) -> int:
        return number + 1

    def once() -> float:
        started = time.process_time()
        for number in range(1_000_000):
            call(number)
        return (time.process_time() - started) * 1e3

    return round(min(once() for _ in range(5)), 1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()))
