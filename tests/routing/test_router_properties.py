"""Whatever comes in: keys are legal, and the base is never left."""

from __future__ import annotations

import posixpath
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.errors import ConfigError, RoutingError
from asyncsink.model import SourceFile
from asyncsink.options.schema import RoutingOptions
from asyncsink.routing.keys import check_key
from asyncsink.routing.router import Router
from asyncsink.routing.tracing import TracingRouter

names = st.one_of(
    st.sampled_from(
        ["sub-01", "_subject_id_s1", "_mn0", "_", "out", "a", "f.nii.gz", ".git", "e\u0301", "日本", "x y"]
    ),
    st.text(alphabet=st.characters(exclude_characters="/\x00"), min_size=1, max_size=6),
).filter(lambda name: name not in (".", ".."))
tame_names = st.sampled_from(
    ["sub-01", "_subject_id_s1", "_mn0", "_", "out", "a", "f.nii.gz", ".git", "é", "x y", "b_c"]
)
wild_texts = st.one_of(
    st.sampled_from(
        ["", "/", "..", "../", "/..", "//", ".", "./", "_", "out", "s3://", "bucket", "/out", "a", "sub-", "/copy"]
    ),
    st.text(alphabet="/._abo", max_size=5),
)
pairs = st.lists(st.tuples(wild_texts, wild_texts), max_size=3).map(tuple)
regexps = st.lists(
    st.tuples(
        st.sampled_from([r"[^/]+$", r"^", r"_(\w+)_id_", r"/", r"(a)(b)?", r"^s3://bucket/", r".*", r"\.", r"(?i)OUT"]),
        wild_texts,
    ),
    max_size=2,
).map(tuple)
bases = st.sampled_from(["s3://bucket/out", "S3://bucket", "/out", "/out/copy", ""])
locals_ = st.sampled_from(["", "/copy", "/out/copy"])
containers = st.one_of(st.sampled_from(["", "c", "/out/c", "/etc", "..", "a/../..", "./c", "/out/../etc"]), wild_texts)
attributes = st.one_of(
    st.sampled_from(["", "motion", "con.@x", "@", "a/b.c", "/etc", "a./out/x", "../..", "a/..", "container"]),
    st.text(alphabet="a.@/", max_size=6),
)


@st.composite
def all_options(draw: st.DrawFn) -> RoutingOptions:
    chosen: dict[str, Any] = {
        "container": draw(containers),
        "parameterization": draw(st.booleans()),
        "strip_dir": draw(st.sampled_from(["", "/w", "/w/a", "/_"])),
        "substitutions": draw(pairs),
        "regexp_substitutions": draw(regexps),
        "compat": draw(st.sampled_from(["strict", "nipype"])),
    }
    return RoutingOptions(**chosen)


@st.composite
def sources(draw: st.DrawFn) -> SourceFile:
    root = "/" + "/".join(draw(st.lists(names, min_size=1, max_size=4)))
    relative = "/".join(draw(st.lists(names, max_size=3)))
    return SourceFile(
        path=f"{root}/{relative}" if relative else root,
        size_bytes=0,
        mtime_ns=0,
        attribute=draw(attributes),
        root=root,
        relative=relative,
        key=draw(st.one_of(st.none(), st.none(), st.none(), wild_texts)),
    )


def assert_inside(base: str, whole: str) -> None:
    """Resolved as a file system would, the URL or path is the base or lies below it."""
    scheme = base[: base.find("//") + 2] if "//" in base else ""
    assert whole.startswith(scheme)
    top = f"/{base[len(scheme) :]}".replace("//", "/").rstrip("/")
    resolved = posixpath.normpath(f"/{whole[len(scheme) :]}".replace("//", "/"))
    assert resolved == top or resolved.startswith(f"{top}/")


@settings(max_examples=400)
@given(options=all_options(), base=bases, local=locals_, files=st.lists(sources(), min_size=1, max_size=3))
def test_keys_are_legal_and_never_leave_the_base(
    options: RoutingOptions, base: str, local: str, files: list[SourceFile]
) -> None:
    try:
        router = Router(options, base=base or "/", local_base=local)
    except ConfigError:
        return
    for source in files:
        try:
            route = router.route(source)
        except RoutingError:
            continue
        check_key(route.key)
        check_key(route.local)
        assert_inside(base, f"{base}/{route.key}")
        assert_inside(local, f"{local}/{route.local}")
        assert local or route.local == route.key
        # Nothing is remembered from the sources before.
        assert Router(options, base=base or "/", local_base=local).route(source) == route


@settings(max_examples=200)
@given(options=all_options(), base=bases, local=locals_, source=sources())
def test_out_file_never_leaves_the_base(options: RoutingOptions, base: str, local: str, source: SourceFile) -> None:
    try:
        url, copy = Router(options, base=base or "/", local_base=local).out_file(source.attribute, source.root)
    except ConfigError:
        return
    assert_inside(base, url)
    if local:
        assert_inside(local, copy)
    else:
        assert copy == ""


@given(
    attribute=st.sampled_from(["motion", "con.@x.more", "@", "a/b.c"]),
    container=st.sampled_from(["", "c", "c/d"]),
    folders=st.lists(tame_names, max_size=5),
    name=tame_names,
    inside=st.lists(tame_names, max_size=3),
    substitutions=st.lists(
        st.tuples(st.sampled_from(["sub-", "_", "a", "o"]), st.sampled_from(["x", "é", "_y"])), max_size=3
    ),
    parameterization=st.booleans(),
)
def test_datasink_routes_equal_a_naive_model(
    attribute: str,
    container: str,
    folders: list[str],
    name: str,
    inside: list[str],
    substitutions: list[tuple[str, str]],
    parameterization: bool,
) -> None:
    root = "/" + "/".join([*folders, name])
    options = RoutingOptions(container=container, substitutions=tuple(substitutions), parameterization=parameterization)
    expected_parts = [container] if container else []
    expected_parts += [part for part in attribute.split(".") if not part.startswith("@")]
    expected_parts += [folder for folder in folders if parameterization and folder.startswith("_")]
    expected = "/".join([*expected_parts, name])
    for old, new in substitutions:
        expected = expected.replace(old, new)
    source = SourceFile(
        path="/".join([root, *inside]),
        size_bytes=0,
        mtime_ns=0,
        attribute=attribute,
        root=root,
        relative="/".join(inside),
    )
    router = Router(options, base="s3://bucket/out", local_base="/copy")
    assert router.route(source).key == router.route(source).local == "/".join([expected, *inside])
    assert router.out_file(attribute, root) == (f"s3://bucket/out/{expected}", f"/copy/{expected}")


@given(
    strip=st.lists(tame_names, min_size=1, max_size=3), folders=st.lists(tame_names, max_size=4), below=st.booleans()
)
def test_strip_dir_as_a_prefix_equals_a_comparison_of_folders(
    strip: list[str], folders: list[str], below: bool
) -> None:
    folders = strip + folders if below else folders
    kept = folders[len(strip) :] if folders[: len(strip)] == strip else folders
    source = SourceFile(path="/" + "/".join([*folders, "f"]), size_bytes=0, mtime_ns=0, attribute="@")
    router = Router(RoutingOptions(strip_dir="/" + "/".join(strip)), base="s3://bucket")
    assert router.route(source).key == "/".join([*(folder for folder in kept if folder.startswith("_")), "f"])


@given(
    root=st.lists(tame_names, min_size=1, max_size=3),
    relatives=st.lists(st.lists(tame_names, min_size=1, max_size=3).map("/".join), max_size=6, unique=True),
    container=st.sampled_from(["", "c", "c/d"]),
)
def test_plain_exports_are_injective(root: list[str], relatives: list[str], container: str) -> None:
    router = Router(RoutingOptions(container=container), base="s3://bucket/out", local_base="/copy")
    assert router.plain
    top = "/" + "/".join(root)
    keys = [
        router.route(SourceFile(path=f"{top}/{name}", size_bytes=0, mtime_ns=0, root=top, relative=name)).key
        for name in relatives
    ]
    assert keys == [f"{container}/{name}" if container else name for name in relatives]
    assert len(set(keys)) == len(relatives)


@settings(max_examples=400)
@given(options=all_options(), base=bases, local=locals_, files=st.lists(sources(), min_size=1, max_size=3))
def test_a_trace_ends_in_the_route_and_each_step_goes_on_from_the_one_before(
    options: RoutingOptions, base: str, local: str, files: list[SourceFile]
) -> None:
    try:
        router = Router(options, base=base or "/", local_base=local)
    except ConfigError:
        return
    tracer = TracingRouter(options, base=base or "/", local_base=local)
    whole_urls = options.compat == "nipype"
    for source in files:
        trace = tracer.trace(source)
        if trace.refused is not None:
            with pytest.raises(RoutingError, match=f"^{re.escape(str(trace.refused))}$"):
                router.route(source)
            continue
        route = router.route(source)
        assert trace.route == route
        assert trace.steps[-1].after == route.key
        for step, later in pairwise(trace.steps):
            if not (whole_urls and (step.pair is None) != (later.pair is None)):
                assert step.after == later.before
