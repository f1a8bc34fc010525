"""How one source became its key: the steps of the router, recorded while it routes. Pure."""

from __future__ import annotations

from asyncsink.errors import RoutingError
from asyncsink.model import Route, SourceFile
from asyncsink.options.schema import RoutingOptions
from asyncsink.routing.attributes import End, parse_attribute
from asyncsink.routing.keys import join_key, show
from asyncsink.routing.router import Router, basename_of
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One step from a source to its key.

    Attributes:
        text: what happens, in words; without a line break.
        before, after: the name below the destination, before and after the step; with compat="nipype", substitutions
            have the whole URL.
        option: the option that decides the step ("container"), or "".
        pair: of a substitution, what is replaced and by what; else None.
        rules: numbers of DataSink's rules, as in guide/nipype.md.
    """

    text: str
    before: str
    after: str
    option: str = ""
    pair: tuple[str, str] | None = None
    rules: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteTrace:
    """The steps of one source, and their end.

    Attributes:
        steps: in the order in which they were taken.
        route: the result, or None where the source was refused.
        refused: why there is no route, or None.
    """

    steps: tuple[RouteStep, ...]
    route: Route | None
    refused: RoutingError | None = None


class TracingRouter(Router):
    """A router that records its steps: arguments as for `Router`, whose code makes every name."""

    def __init__(self, options: RoutingOptions, *, base: str, local_base: str = "") -> None:
        super().__init__(options, base=base, local_base=local_base)
        self._steps: list[RouteStep] = []
        self._so_far = ""

    def trace(self, source: SourceFile) -> RouteTrace:
        """The steps from `source` to its route."""
        self._steps, self._so_far = [], ""
        # Names that are kept from the source before would leave their steps out.
        self._latest, self._latest_folders = ("", "", ()), (None, [])
        try:
            route = self.route(source)
        except RoutingError as refused:
            return RouteTrace(tuple(self._steps), None, refused)
        return RouteTrace(tuple(self._steps), route)

    def route(self, source: SourceFile) -> Route:
        """As `Router.route`."""
        if source.key is not None:
            self._step("the key is given with the source; no rule changes it", source.key)
        elif not source.attribute:
            name = source.relative or basename_of(source)
            if "/" in name:
                self._step("a directory's files keep their path below it", name, rules=(26,))
            else:
                self._step("a file keeps its own name", name, rules=(13,))
            if self.folder:
                self._into_container(self.folder + name)
        return super().route(source)

    def _plain_heads(self, attribute: str, root: str) -> list[str]:
        heads = super()._plain_heads(attribute, root)
        folder, _, own = root.rstrip("/").rpartition("/")
        self._step("a source keeps its own name", own, rules=(13,))
        self._folders(folder, self._names.name(root), own)
        components = parse_attribute(attribute, self._options.compat)
        name = join_key(*components, self._so_far)
        self._step(_attribute_in_words(attribute), name, rules=(9,))
        if heads[0] != name:
            self._into_container(heads[0])
        return heads

    def _folders(self, folder: str, name: str, own: str) -> None:
        found = [each for each in folder.split("/") if each.startswith("_")]
        kept = name.removesuffix(own).strip("/")
        if not found and not kept:
            return
        options = self._options
        if not options.parameterization:
            text = f'folders of its path that begin with "_" are left out: {", ".join(found)}'
            self._step(text, name, option="parameterization", rules=(16,))
        elif "/".join(found) == kept:
            text = f'folders of its path that begin with "_" are kept: {", ".join(found)}'
            self._step(text, name, rules=(14,))
        else:
            cut = "strip_dir" if options.strip_dir else "parameterization_root"
            there = f": {kept.replace('/', ', ')} of {', '.join(found)}" if kept else f", so none of {', '.join(found)}"
            text = f'folders that begin with "_" are kept where {show(getattr(options, cut))} is cut off{there}'
            self._step(text, name, option=cut, rules=(14, 15))

    def _into_container(self, name: str) -> None:
        self._step(f"the container's folder {show(self._options.container)}", name, option="container")

    def _substituted(self, end: End, text: str, path: str) -> str:
        if end is not self._ends[0]:
            return super()._substituted(end, text, path)
        whole = self._options.compat == "nipype"
        for option, pair, before, after in self._substitutions.applied(end.url(text) if whole else text):
            done = "nothing to replace" if before == after else "replaced"
            seen = " in the whole URL" if whole else ""
            rules = (19, 20) if whole else (19,)
            self._steps.append(
                RouteStep(text=f"{done}{seen}", before=before, after=after, option=option, pair=pair, rules=rules)
            )
        self._so_far = super()._substituted(end, text, path)
        return self._so_far

    def _checked(self, source: SourceFile, names: tuple[str, ...]) -> Route:
        key, inside = names[0], source.relative if source.attribute and source.key is None else ""
        if inside:
            self._folded(join_key(self._so_far))
            scope = "; substitutions see the directory's name only" if self._substitutions else ""
            self._step(f"a directory's files keep their path below it{scope}", key, rules=(22, 26) if scope else (26,))
        else:
            self._folded(key)
        route = super()._checked(source, names)
        size_bytes = len(key.encode())
        text = f"the key is legal: {size_bytes:,} of {self.bytes_max:,} bytes, no '..', no '//'"
        self._step(text, key, rules=(12, 23))
        return route

    def _folded(self, name: str) -> None:
        if name != self._so_far:
            self._step("'//' and slashes at the ends are taken out", name, rules=(23,))

    def _step(self, text: str, after: str, *, option: str = "", rules: tuple[int, ...] = ()) -> None:
        self._steps.append(RouteStep(text=text, before=self._so_far, after=after, option=option, rules=rules))
        self._so_far = after


def _attribute_in_words(attribute: str) -> str:
    components = attribute.split(".")
    silent = [show(each) for each in components if each.startswith("@")]
    folders = [show(each) for each in components if not each.startswith("@")]
    names = f"the {'folder' if len(folders) == 1 else 'folders'} {' / '.join(folders)}" if folders else "no folder"
    without = f"; {', '.join(silent)} {'names' if len(silent) == 1 else 'name'} none" if silent else ""
    return f"the attribute {show(attribute)} gives {names}{without if folders else ''}"
