"""The two ends of a route, base_directory and local_copy, and nothing leaves them (Nipype rules 11, 12, 24, 25)."""

from __future__ import annotations

from collections.abc import Iterable

from asyncsink.config import RoutingOptions
from asyncsink.errors import RoutingError
from asyncsink.routing.keys import KEY_BYTES_MAX, PATH_BYTES_MAX, join_key, show
from asyncsink.value import dataclass
from asyncsink.values import split_bucket


@dataclass(frozen=True, slots=True)
class End:
    """A destination as routing sees it.

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
        """What stands behind the base in a URL or path, or None where it does not start with the base."""
        return _below(text, self.base)

    def folder(self, components: Iterable[str], attribute: str) -> str:
        """The container and an attribute's components, below the base.

        Raises:
            RoutingError: a component that starts with "/" (it restarts the path, as os.path.join does) names a folder
                that is not below the base.
        """
        folder = self.container
        for component in components:
            if component.startswith("/"):
                folder = _absolute([component], self.base, f"The output attribute {show(attribute)}")
            else:
                folder = join_key(folder, component)
        return folder


def make_end(options: RoutingOptions, base: str) -> End:
    """The End for a base.

    Raises:
        RoutingError: the container has a ".." or leaves the base, or the base is too long to hold any name.
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
        raise RoutingError(f"container={show(container)} has a '..' segment; name a folder below base_directory.")
    if not container.startswith("/"):
        return "/".join(segments)
    if options.compat == "strict":
        raise RoutingError(
            f"container={show(container)} starts with '/', which would discard base_directory; write it without."
        )
    return _absolute(segments, base, f"container={show(container)}")


def _absolute(segments: list[str], base: str, what: str) -> str:
    """An absolute path, relative to the base that it must lie in."""
    path = "/" + join_key(*segments)
    below = _below(path, base)
    if below is None:
        raise RoutingError(f"{what} names {show(path)}, which is not below {show(base)}; write it relative to that.")
    return below


def _below(text: str, base: str) -> str | None:
    if text == base:
        return ""
    return text[len(base) + 1 :] if text.startswith(f"{base}/") else None
