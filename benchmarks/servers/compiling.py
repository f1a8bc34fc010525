"""The null server's program, compiled when it is needed first."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SOURCES = tuple(_HERE / name for name in ("null_server.c", "null_store.c"))
_NEEDED = (
    "the null server is compiled before it starts, which needs a C compiler, Linux, and OpenSSL with its headers; "
    "on Debian: apt-get install gcc libc6-dev libssl-dev"
)


def null_server(directory: Path = _HERE / "__pycache__") -> Path:
    """The program that belongs to the present sources, kept in `directory`. Blocking; compiles for a second or two.

    Raises:
        RuntimeError: there is no compiler, or it failed.
    """
    content = b"".join(path.read_bytes() for path in (*_SOURCES, _HERE / "null.h"))
    program = directory / f"null_server-{hashlib.sha256(content).hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        raise RuntimeError(f"The null server cannot be started: {_NEEDED}.")
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        made = Path(scratch) / "program"
        command = [
            compiler,
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            str(made),
            *map(str, _SOURCES),
            "-lssl",
            "-lcrypto",
        ]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"The null server was not compiled: {_NEEDED}. The compiler says:\n{done.stderr}")
        os.replace(made, program)
    return program
