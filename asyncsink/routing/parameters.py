"""Which part of a source's path goes into its name: "_" folders, strip_dir, the basename (Nipype rules 13 to 16)."""

from __future__ import annotations

import posixpath

from asyncsink.config import RoutingOptions
from asyncsink.errors import ConfigError, RoutingError
from asyncsink.routing.keys import show


class SourceNames:
    """Names sources after the rules of `options`.

    Raises:
        ConfigError: parameterization_root, or strip_dir where it is a prefix, is no absolute path.
    """

    __slots__ = ("_replace", "_root", "_strip_dir", "_used")

    def __init__(self, options: RoutingOptions) -> None:
        self._used = options.parameterization
        self._root = _directory("parameterization_root", options.parameterization_root)
        self._replace = options.strip_dir_mode == "replace"
        self._strip_dir = options.strip_dir if self._replace else _directory("strip_dir", options.strip_dir)

    def name(self, path: str) -> str:
        """The source's basename, below the "_" folders of its absolute path where parameterization is on.

        A trailing "/" is ignored, so a directory goes under its own basename (rule 13).

        Raises:
            RoutingError: the path has no basename ("/", rule 6).
        """
        folder, _, basename = path.rstrip("/").rpartition("/")
        if not basename:
            raise RoutingError(
                f"The source {show(path)} has no name to publish it under; name a file or folder below it."
            )
        if not self._used or "_" not in folder:
            return basename
        return "/".join([*(part for part in self._considered(folder).split("/") if part[:1] == "_"), basename])

    def _considered(self, folder: str) -> str:
        """What of the folder is searched for "_" components."""
        start = 0
        if self._root:
            if not _is_below(folder, self._root):
                return ""
            start = len(self._root)
        if self._strip_dir:
            if self._replace:
                return folder[start:].replace(self._strip_dir, "")
            if _is_below(folder, self._strip_dir):
                start = max(start, len(self._strip_dir))
        return folder[start:]


def _is_below(folder: str, parent: str) -> bool:
    return folder == parent or folder.startswith(f"{parent}/")


def _directory(option: str, value: str) -> str:
    """An absolute directory without "//", "." and trailing "/"; "" and "/", which cut nothing, become ""."""
    if not value:
        return ""
    if not value.startswith("/"):
        raise ConfigError(f"{option}={show(value)} is no absolute directory; write the whole path, from '/'.")
    return ("/" + posixpath.normpath(value).strip("/")).rstrip("/")
