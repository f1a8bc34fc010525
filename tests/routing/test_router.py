"""The Router against Nipype's rules, each by its number, in both modes."""

from __future__ import annotations

from typing import Any

import pytest

from asyncsink.errors import ConfigError, InvalidKey, RoutingError
from asyncsink.model import Route, SourceFile
from asyncsink.options.schema import Compat, RoutingOptions
from asyncsink.routing.router import Router

BOTH: list[Compat] = ["strict", "nipype"]
BASE = "s3://bucket/out"
both_modes = pytest.mark.parametrize("compat", BOTH)


def found(path: str, attribute: str = "motion", relative: str = "", key: str | None = None) -> SourceFile:
    """A file, or with `relative` a file inside the directory source `path`."""
    whole = f"{path}/{relative}" if relative else path
    return SourceFile(path=whole, size_bytes=1, mtime_ns=1, attribute=attribute, root=path, relative=relative, key=key)


def key_of(source: SourceFile, compat: Compat = "strict", base: str = BASE, **options: Any) -> str:
    return Router(RoutingOptions(compat=compat, **options), base=base).route(source).key


@both_modes
def test_document_example_realigned_file_of_sub001(compat: Compat) -> None:
    router = Router(RoutingOptions(compat=compat, container="sub001"), base="s3://mybucket/path/to/output/dir")
    source = found("/work/realigner/realigned_file1.nii.gz")
    assert router.route(source) == Route("sub001/motion/realigned_file1.nii.gz", "sub001/motion/realigned_file1.nii.gz")
    url = "s3://mybucket/path/to/output/dir/sub001/motion/realigned_file1.nii.gz"
    assert router.out_file("motion", source.path) == (url, "")


@both_modes
def test_rule_06_the_root_directory_has_no_name(compat: Compat) -> None:
    with pytest.raises(RoutingError, match="no name to publish it under"):
        key_of(found("/"), compat)


@both_modes
def test_rule_08_reserved_attributes_reach_no_key(compat: Compat) -> None:
    with pytest.raises(RoutingError, match="'bucket' is the name of a DataSink input"):
        key_of(found("/w/f", "bucket"), compat)


@both_modes
@pytest.mark.parametrize(
    ("attribute", "key"),
    [
        ("motion", "c/motion/f.nii"),
        ("contrasts.@con", "c/contrasts/f.nii"),
        ("con.@x.more", "c/con/more/f.nii"),
        ("a@b", "c/a@b/f.nii"),
        ("@", "c/f.nii"),
        ("a/b/.c", "c/a/b/c/f.nii"),
    ],
)
def test_rule_09_attributes_become_folders(attribute: str, key: str, compat: Compat) -> None:
    assert key_of(found("/w/f.nii", attribute), compat, container="c") == key


@both_modes
def test_rule_10_an_empty_component_is_refused(compat: Compat) -> None:
    with pytest.raises(RoutingError, match="empty component"):
        key_of(found("/w/f", "a..b"), compat)


def test_rule_11_strict_refuses_what_discards_the_base() -> None:
    with pytest.raises(RoutingError, match="container='/sub001' starts with '/'"):
        Router(RoutingOptions(container="/sub001"), base=BASE)
    with pytest.raises(RoutingError, match="'/abs' of the output attribute"):
        key_of(found("/w/f", "a./abs"))


def test_rule_11_nipype_takes_an_absolute_folder_below_the_base() -> None:
    assert key_of(found("/w/f"), "nipype", base="/out", container="/out//sub1/") == "sub1/motion/f"
    assert key_of(found("/w/f", "a./out/x.b"), "nipype", base="/out", container="c") == "x/b/f"
    router = Router(RoutingOptions(compat="nipype", container="/out"), base="/out")
    assert router.out_file("motion", "/w/f") == ("/out/motion/f", "")


@pytest.mark.parametrize("base", [BASE, "/out"])
def test_rule_11_nipype_refuses_an_absolute_folder_elsewhere(base: str) -> None:
    with pytest.raises(RoutingError, match="not below"):
        Router(RoutingOptions(compat="nipype", container="/outside"), base=base)
    with pytest.raises(RoutingError, match="not below"):
        key_of(found("/w/f", "a./abs"), "nipype", base=base)


def test_rule_11_nipype_container_below_base_but_not_below_local_copy() -> None:
    with pytest.raises(RoutingError, match="not below '/copy'"):
        Router(RoutingOptions(compat="nipype", container="/out/c"), base="/out", local_base="/copy")
    nested = Router(RoutingOptions(compat="nipype", container="/out/copy/c"), base="/out", local_base="/out/copy")
    assert not nested.plain
    assert nested.route(found("/w/f")) == Route("copy/c/motion/f", "c/motion/f")
    assert nested.route(found("/w", "", "d/f")) == Route("copy/c/d/f", "c/d/f")


@both_modes
@pytest.mark.parametrize("container", ["..", "../x", "a/../b", "a/.."])
def test_rule_12_dotdot_in_the_container_is_refused(container: str, compat: Compat) -> None:
    with pytest.raises(RoutingError, match=r"has a '\.\.' segment"):
        Router(RoutingOptions(compat=compat, container=container), base=BASE)


@both_modes
@pytest.mark.parametrize("container", ["c/d", "c//d/", "./c/d", "c/./d"])
def test_rule_23_containers_are_normalised(container: str, compat: Compat) -> None:
    assert key_of(found("/w/f"), compat, container=container) == "c/d/motion/f"


@both_modes
def test_rule_13_a_directory_goes_under_its_own_name(compat: Compat) -> None:
    assert key_of(found("/w/_p/reports", relative="figures/a.svg"), compat) == "motion/_p/reports/figures/a.svg"
    assert key_of(found("/w/reports/", relative="a.svg"), compat) == "motion/reports/a.svg"


@both_modes
def test_rule_14_parameter_folders_are_kept_wherever_they_stand(compat: Compat) -> None:
    path = "/_home/work/_subject_id_s1/node/mapflow/_mn0/f.nii"
    assert key_of(found(path), compat) == "motion/_home/_subject_id_s1/_mn0/f.nii"


@both_modes
def test_rule_14_the_basename_is_no_parameter(compat: Compat) -> None:
    assert key_of(found("/w/_x/_dir", relative="_y/f"), compat) == "motion/_x/_dir/_y/f"
    assert key_of(found("/w/_f"), compat) == "motion/_f"


@both_modes
def test_rule_14_bounded_to_a_root(compat: Compat) -> None:
    root: dict[str, Any] = {"parameterization_root": "/_home/work/"}
    assert key_of(found("/_home/work/_x/f"), compat, **root) == "motion/_x/f"
    assert key_of(found("/_home/work2/_x/f"), compat, **root) == "motion/f"
    assert key_of(found("/_home/work/_x/f"), compat, parameterization_root="/") == "motion/_home/_x/f"


def test_rule_14_and_15_the_longer_prefix_decides() -> None:
    deep, shallow = "/_home/_work", "/_home"
    for root, strip in ((deep, shallow), (shallow, deep)):
        assert key_of(found("/_home/_work/_x/f"), parameterization_root=root, strip_dir=strip) == "motion/_x/f"


def test_rule_15_strict_strips_whole_folders_only() -> None:
    strip: dict[str, Any] = {"strip_dir": "/scratch/_a"}
    assert key_of(found("/scratch/_a/_x/f"), **strip) == "motion/_x/f"
    assert key_of(found("/scratch/_ab/_x/f"), **strip) == "motion/_ab/_x/f"
    assert key_of(found("/y/scratch/_a/_x/f"), **strip) == "motion/_a/_x/f"
    assert key_of(found("/scratch/_a/f"), strip_dir="/scratch//_a/") == "motion/f"
    assert key_of(found("/scratch_dir/_x/f"), strip_dir="/scratch") == "motion/_x/f"
    assert key_of(found("/_a/_x/f"), strip_dir="/") == "motion/_a/_x/f"


def test_rule_15_nipype_replaces_text() -> None:
    assert key_of(found("/scratch_dir/_x/f"), "nipype", strip_dir="/scratch") == "motion/_dir/_x/f"
    assert key_of(found("/y/scratch/_a/_x/f"), "nipype", strip_dir="scratch/_a") == "motion/_x/f"
    assert key_of(found("/a_b/f"), "nipype", strip_dir="a") == "motion/_b/f"


@both_modes
def test_rule_15_is_ignored_without_parameterization(compat: Compat) -> None:
    assert key_of(found("/w/_x/f"), compat, strip_dir="/w", parameterization=False) == "motion/f"


def test_rule_15_a_relative_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match="strip_dir='scratch' is no absolute directory"):
        Router(RoutingOptions(strip_dir="scratch"), base=BASE)
    with pytest.raises(ConfigError, match="parameterization_root="):
        Router(RoutingOptions(parameterization_root="work"), base=BASE)


@both_modes
def test_rule_16_without_parameterization_only_the_basename_is_left(compat: Compat) -> None:
    keys = {key_of(found(f"/w/_s{n}/f"), compat, parameterization=False) for n in range(3)}
    assert keys == {"motion/f"}


@both_modes
def test_rule_19_substitutions_then_regexps(compat: Compat) -> None:
    options: dict[str, Any] = {
        "container": "c",
        "substitutions": (("_subject_id_", "sub-"), ("sub-s", "sub-0")),
        "regexp_substitutions": ((r"sub-0(\d)/", r"s\1_"),),
    }
    assert key_of(found("/w/_subject_id_s1/f.nii"), compat, **options) == "c/motion/s1_f.nii"


def test_rule_20_strict_substitutes_the_key_only() -> None:
    options: dict[str, Any] = {"container": "sub-1", "substitutions": (("sub-", ""),)}
    assert key_of(found("/w/f"), base="s3://sub-data/sub-p", **options) == "1/motion/f"
    assert key_of(found("/w/f"), regexp_substitutions=(("^mo", "x"),)) == "xtion/f"


def test_rule_20_nipype_substitutes_the_url_and_its_anchors_work() -> None:
    anchored: dict[str, Any] = {"regexp_substitutions": ((r"^s3://bucket/out/motion", "s3://bucket/out/m"),)}
    assert key_of(found("/w/f"), "nipype", **anchored) == "m/f"
    assert key_of(found("/w/f"), "strict", **anchored) == "motion/f"
    assert key_of(found("/w/f"), "nipype", regexp_substitutions=(("^mo", "x"),)) == "motion/f"


@pytest.mark.parametrize(
    "substitutions",
    [(("bucket", "other"),), (("/out", ""),), (("s3://", "S3://"),), (("out/", "out"),), (("bu", "x"), ("ou", "y"))],
)
def test_rule_20_the_destination_must_come_out_unchanged(substitutions: tuple[tuple[str, str], ...]) -> None:
    router = Router(RoutingOptions(compat="nipype", substitutions=substitutions), base=BASE)
    with pytest.raises(RoutingError, match="changes the destination 's3://bucket/out' itself") as caught:
        router.route(found("/w/f"))
    assert f"substitutions[0]=({substitutions[0][0]!r}, {substitutions[0][1]!r})" in str(caught.value)
    assert "'/w/f'" in str(caught.value)


def test_rule_20_a_longer_prefix_is_not_the_base() -> None:
    with pytest.raises(RoutingError, match="changes the destination"):
        key_of(found("/w/f"), "nipype", substitutions=(("/out/", "/out2/"),))


def test_rule_20_a_base_restored_at_the_end_is_unchanged() -> None:
    assert key_of(found("/w/f"), "nipype", substitutions=(("bucket", "b#"), ("b#", "bucket"), ("mot", "x"))) == "xion/f"


def test_rule_21_local_paths_are_substituted_by_themselves() -> None:
    options = RoutingOptions(compat="nipype", substitutions=(("/copy/motion", "/copy/m"),))
    route = Router(options, base=BASE, local_base="/copy").route(found("/w/f"))
    assert route == Route("motion/f", "m/f")
    with pytest.raises(RoutingError, match="changes the destination '/copy' itself"):
        Router(RoutingOptions(compat="nipype", substitutions=(("copy", "x"),)), base=BASE, local_base="/copy").route(
            found("/w/f")
        )


def test_rule_21_strict_leaves_local_copy_alone() -> None:
    router = Router(RoutingOptions(substitutions=(("copy", "x"),)), base=BASE, local_base="/copy")
    assert router.route(found("/w/copy.nii")) == Route("motion/x.nii", "motion/x.nii")


@both_modes
def test_rule_22_the_files_inside_a_directory_keep_their_names(compat: Compat) -> None:
    source = found("/w/sub-1", relative="sub-1/f_sub-1")
    assert key_of(source, compat, substitutions=(("sub-", "s"),)) == "motion/s1/sub-1/f_sub-1"
    assert key_of(source, compat, regexp_substitutions=(("[^/]+$", "x"),)) == "motion/x/sub-1/f_sub-1"


@both_modes
def test_rule_22_a_directory_may_lose_its_name(compat: Compat) -> None:
    source = found("/w/reports", relative="a.svg")
    assert key_of(source, compat, substitutions=(("/reports", ""),)) == "motion/a.svg"
    assert key_of(source, compat, substitutions=(("motion/reports", ""),)) == "a.svg"


def test_rule_22_one_router_serves_many_directories() -> None:
    router = Router(RoutingOptions(substitutions=(("d", "D"),)), base=BASE)
    sources = [
        found("/w/d1", relative="d"),
        found("/w/d1", "other", "d"),
        found("/w/d2", "other", "d"),
        found("/w/d1", relative="d"),
    ]
    assert [router.route(source).key for source in sources] == [
        "motion/D1/d",
        "other/D1/d",
        "other/D2/d",
        "motion/D1/d",
    ]


@both_modes
def test_one_router_serves_many_attributes(compat: Compat) -> None:
    """Whatever came before: another attribute, a refused one, or the same one with another file."""
    routers = [Router(RoutingOptions(compat=compat, container="c"), base=BASE, local_base="/copy") for _ in range(2)]
    attributes = ["motion", "motion", "contrasts.@con", "bucket", "contrasts.@con", "", "a..b", "@", "motion", "a/b.c"]
    for number, attribute in enumerate(attributes):
        source = found(f"/w/_s_{number}/f.nii", attribute)
        fresh = Router(RoutingOptions(compat=compat, container="c"), base=BASE, local_base="/copy")
        if attribute in ("bucket", "a..b"):
            for router in (*routers, fresh):
                with pytest.raises(RoutingError, match="output attribute"):
                    router.route(source)
            continue
        expected = fresh.route(source)
        assert [router.route(source) for router in routers] == [expected, expected]


@both_modes
def test_rule_23_double_slashes_are_folded(compat: Compat) -> None:
    assert key_of(found("/w/_x/f"), compat, substitutions=(("_x", ""),)) == "motion/f"
    assert key_of(found("/w/_x/f"), compat, substitutions=(("motion", "/"), ("f", "/f"))) == "_x/f"


@both_modes
@pytest.mark.parametrize("new", ["..", ".", "a/../b", "../../x"])
def test_rule_23_dot_segments_from_substitutions_are_refused(new: str, compat: Compat) -> None:
    with pytest.raises(InvalidKey, match=r"The source '/w/_x/f' cannot be published: .* segment"):
        key_of(found("/w/_x/f"), compat, substitutions=(("_x", new),))


@both_modes
@pytest.mark.parametrize("old", ["f.nii", "motion/f.nii"])
def test_rule_23_a_file_must_keep_a_name(old: str, compat: Compat) -> None:
    with pytest.raises(InvalidKey, match="left without a file name"):
        key_of(found("/w/f.nii"), compat, substitutions=((old, ""),))


@both_modes
def test_rule_24_25_bases_are_taken_as_they_are_written(compat: Compat) -> None:
    router = Router(RoutingOptions(compat=compat, substitutions=(("f", "g"),)), base="S3://bucket/s3://bucket")
    assert router.route(found("/w/f")).key == "motion/g"
    assert router.out_file("motion", "/w/f") == ("S3://bucket/s3://bucket/motion/g", "")
    assert Router(RoutingOptions(compat=compat), base="s3://b/").out_file("@", "/w/f")[0] == "s3://b/f"


@both_modes
def test_rule_26_a_path_that_recurs_is_not_cut(compat: Compat) -> None:
    assert key_of(found("/w/d", relative="w/d/f"), compat) == "motion/d/w/d/f"


@both_modes
def test_rule_34_out_file_has_one_entry_per_source(compat: Compat) -> None:
    router = Router(
        RoutingOptions(compat=compat, container="c", substitutions=(("reports", "R"),)), base=BASE, local_base="/copy"
    )
    assert router.out_file("motion", "/w/_x/reports/") == (f"{BASE}/c/motion/_x/R", "/copy/c/motion/_x/R")
    assert router.out_file("@", "/w/f") == (f"{BASE}/c/f", "/copy/c/f")


@both_modes
def test_rule_34_a_directory_export_is_the_container_itself(compat: Compat) -> None:
    assert Router(RoutingOptions(compat=compat), base=BASE).out_file("", "/w/d") == (BASE, "")
    options = RoutingOptions(compat=compat, container="sub-1", substitutions=(("sub-1/", "s1/"),))
    assert Router(options, base=BASE, local_base="/copy").out_file("", "/w/d") == (f"{BASE}/s1", "/copy/s1")


@both_modes
def test_rule_34_out_file_never_climbs(compat: Compat) -> None:
    with pytest.raises(InvalidKey, match="'\\.\\.'"):
        Router(RoutingOptions(compat=compat, substitutions=(("d", ".."),)), base=BASE).out_file("@", "/w/d")


@both_modes
def test_rule_39_a_local_base_routes_the_same(compat: Compat) -> None:
    source = found("/w/_x/f")
    options: dict[str, Any] = {"container": "c", "substitutions": (("_x", "y"),)}
    assert key_of(source, compat, base="/out", **options) == key_of(source, compat, **options) == "c/motion/y/f"
    assert Router(RoutingOptions(compat=compat, **options), base="/").out_file("m", "/f") == ("/c/m/f", "")
    assert Router(RoutingOptions(compat=compat), base="/").out_file("", "/w") == ("/", "")


@both_modes
def test_explicit_keys_are_taken_as_given(compat: Compat) -> None:
    router = Router(RoutingOptions(compat=compat, container="c", substitutions=(("k", "x"),)), base=BASE)
    assert router.route(found("/w/f", "motion", key="a/k.nii")) == Route("a/k.nii", "a/k.nii")
    for key in ("", "/a", "a//b", "../a", "a/"):
        with pytest.raises(InvalidKey):
            router.route(found("/w/f", key=key))


@both_modes
def test_directory_exports_keep_relative_paths_below_the_container(compat: Compat) -> None:
    router = Router(RoutingOptions(compat=compat, container="c"), base=BASE)
    assert router.plain
    assert router.route(found("/w/_x", "", "_y/f.nii")) == Route("c/_y/f.nii", "c/_y/f.nii")
    assert router.route(found("/w/_x/f.nii", "")).key == "c/f.nii"
    assert router.route(SourceFile(path="/w/f.nii", size_bytes=0, mtime_ns=0)).key == "c/f.nii"


@both_modes
def test_directory_exports_are_substituted_file_by_file(compat: Compat) -> None:
    router = Router(RoutingOptions(compat=compat, container="c", substitutions=(("c/_y", "z"), ("f", "g"))), base=BASE)
    assert not router.plain
    assert router.route(found("/w", "", "_y/f.nii")).key == "z/g.nii"
    with pytest.raises(InvalidKey, match="left without a file name"):
        Router(RoutingOptions(compat=compat, substitutions=(("f", ""),)), base=BASE).route(found("/w", "", "d/f"))


def test_errors_name_the_source_without_raw_control_characters() -> None:
    with pytest.raises(InvalidKey) as caught:
        key_of(found("/w/a\nb\udcff"))
    assert "'/w/a\\nb\\udcff'" in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_prefix_counts_for_the_length_of_keys() -> None:
    base = "s3://bucket/" + "p" * 100
    assert len(key_of(found("/w", "", "f" * 923), base=base)) == 923
    with pytest.raises(InvalidKey, match="at most 923 are allowed"):
        key_of(found("/w", "", "f" * 924), base=base)
    assert len(key_of(found("/w", "", "f" * 2000), base="/out")) == 2000
    with pytest.raises(InvalidKey, match="at most 1024"):
        Router(RoutingOptions(), base="s3://bucket", local_base="/l").route(found("/w", "", "f" * 1025))
    with pytest.raises(RoutingError, match="too long"):
        Router(RoutingOptions(), base="s3://bucket/" + "p" * 1023)


def test_each_end_has_its_own_limit() -> None:
    grow = RoutingOptions(compat="nipype", substitutions=(("/copy/motion/", "/copy/motion/" + "long/" * 300),))
    route = Router(grow, base=BASE, local_base="/copy").route(found("/w/f"))
    assert route.key == "motion/f"
    assert len(route.local) == len("motion/f") + 1500
