"""DataSink's attribute notation string[[.[@]]string[[.[@]]string]] (Nipype rules 8 to 12), the ends of a route, and the
names of sources."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from asyncsink.errors import ConfigError, RoutingError
from asyncsink.options.schema import Compat, RoutingOptions
from asyncsink.options.values import split_bucket
from asyncsink.routing.keys import KEY_BYTES_MAX, PATH_BYTES_MAX, join_key, show
from asyncsink.value import dataclass

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
    """Raise RoutingError for the name of one of DataSink's own inputs (rule 8), or for a value that is not a str."""
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

    The attribute is split at "."; a component that starts with "@" names no folder, at any position (rule 9).

    Args:
        attribute: "motion", "contrasts.@con", "@", …
        compat: "nipype" lets a component start with "/" (the Router resolves it, rule 11).

    Raises:
        RoutingError: the attribute is reserved (8), has an empty component (10, and so ".." too, 12), or in strict mode
            a component that starts with "/" (11).
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
                    "which would discard the destination; write it without the '/'."
                )
    return tuple(component for component in components if not component.startswith("@"))


# -- The ends of a route: base_directory and local_copy, which no name may leave (Nipype rules 11, 12, 24, 25) ---------


@dataclass(frozen=True, slots=True)
class End:
    """One end of a route: base_directory, or local_copy.

    Attributes:
        base: URL or absolute directory as the user wrote it, no trailing "/".
        container: the container's folder below `base`, or "".
        bytes_max: longest legal name below `base`, bytes of UTF-8.
    """

    base: str
    container: str
    bytes_max: int

    def url(self, name: str) -> str:
        """The URL or path of a name below the base; "" names the base itself."""
        return f"{self.base}/{name}" if name else self.base or "/"

    def below(self, text: str) -> str | None:
        """The part of a URL or path after the base, or None where it does not start with the base."""
        return _below(text, self.base)

    def folder(self, components: Iterable[str], attribute: str) -> str:
        """The container and an attribute's components, below the base.

        Raises:
            RoutingError: a component that starts with "/" (it restarts the path, as os.path.join does) names a folder
                outside the base.
        """
        folder = self.container
        for component in components:
            if component.startswith("/"):
                folder = _absolute([component], self.base, f"The output attribute {show(attribute)}")
            else:
                folder = join_key(folder, component)
        return folder


def make_end(options: RoutingOptions, base: str) -> End:
    """Check a base and the container, and make the End.

    Raises:
        RoutingError: the container has a ".." or leaves the base, or the base is too long for any name.
    """
    base = base.rstrip("/")
    if base.lower().startswith("s3://"):
        _, prefix = split_bucket(base[len("s3://") :])
        taken, bytes_max = (f"{prefix}/" if prefix else ""), KEY_BYTES_MAX
    else:
        taken, bytes_max = f"{base}/", PATH_BYTES_MAX
    left = bytes_max - len(taken.encode("utf-8", "surrogatepass"))
    if left <= 0:
        raise RoutingError(
            f"The destination {show(base)} is too long: at most {bytes_max} bytes are allowed with a file's name; "
            "shorten it."
        )
    return End(base, _container(options, base), left)


def _container(options: RoutingOptions, base: str) -> str:
    container = options.container
    segments = [segment for segment in container.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise RoutingError(f"container={show(container)} has a '..' segment; name a folder below the destination.")
    if not container.startswith("/"):
        return "/".join(segments)
    if options.compat == "strict":
        raise RoutingError(
            f"container={show(container)} starts with '/', which would discard the destination; write it without."
        )
    return _absolute(segments, base, f"container={show(container)}")


def _absolute(segments: list[str], base: str, what: str) -> str:
    """An absolute path as a path relative to the base, which must contain it."""
    path = "/" + join_key(*segments)
    below = _below(path, base)
    if below is None:
        raise RoutingError(f"{what} names {show(path)}, which is not below {show(base)}; write it relative to that.")
    return below


def _below(text: str, base: str) -> str | None:
    if text == base:
        return ""
    return text[len(base) + 1 :] if text.startswith(f"{base}/") else None


# -- Names of sources: "_" folders, strip_dir, the basename (Nipype rules 13 to 16) ------------------------------------


class SourceNames:
    """Names of sources under the rules of `options`.

    Raises:
        ConfigError: parameterization_root, or strip_dir where it is a prefix, is not an absolute path.
    """

    __slots__ = ("_replace", "_root", "_strip_dir", "_used")

    def __init__(self, options: RoutingOptions) -> None:
        self._used = options.parameterization
        self._root = _directory("parameterization_root", options.parameterization_root)
        self._replace = options.compat == "nipype"
        self._strip_dir = options.strip_dir if self._replace else _directory("strip_dir", options.strip_dir)

    def name(self, path: str) -> str:
        """The source's basename, below the "_" folders of its absolute path where parameterization is on.

        A trailing "/" is ignored, so a directory is published under its own basename (rule 13).

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
        """The part of the folder that is searched for "_" components."""
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
    """An absolute directory without "//", "." and trailing "/"; "" and "/", which strip nothing, become ""."""
    if not value:
        return ""
    if not value.startswith("/"):
        raise ConfigError(f"{option}={show(value)} is no absolute directory; write the whole path, from '/'.")
    return ("/" + posixpath.normpath(value).strip("/")).rstrip("/")
