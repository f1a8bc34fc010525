"""The figures of a plan, its lines at every width, its cost, and its sorted list."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError
from asyncsink.model import Failure, Outcome, Planned, Skip
from asyncsink.options.settings import MIB
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.plan import PlanBasis, PlanFigures, Prices, kind_of, money, prices_of
from asyncsink.report.plan_lines import Paper, list_line, plan_heading, plan_rows
from asyncsink.report.plan_list import planned_files
from asyncsink.report.report import Report, RunEnd

BASIS = PlanBasis(
    destination="s3://b/study",
    folder="/work/derivatives",
    parts=lambda size_bytes: -(-size_bytes // (8 * MIB)) if size_bytes >= 8 * MIB else 0,
    looks={"ListObjectsV2": 2},
)


def planned(name: str, size_bytes: int = 10, reason: str = "not there", *, key: str = "") -> Planned:
    its = key or name
    return Planned(f"/work/derivatives/{name}", f"study/{its}", f"s3://b/study/{its}", size_bytes, reason)


def skipped(name: str, reason: str, *, there: bool) -> Skip:
    url = f"s3://b/study/{name}" if there else ""
    key = f"study/{name}" if there else ""
    return Skip(f"/work/derivatives/{name}", key, url, 7 if there else 0, reason, already_there=there)


def plan_of(*outcomes: Outcome) -> Report:
    log = OutcomeLog()
    log.extend(outcomes)
    return Report(log, "s3://b/study", RunEnd(), basis=BASIS)


OUTCOMES = (
    planned("sub-02/func/bold.nii.gz", 20 * MIB),
    planned("sub-01/func/bold.nii.gz", 8 * MIB, "size differs"),
    planned("sub-01/anat/T1w.json", 300),
    planned("README", 5),
    skipped("sub-01/anat/T1w.nii.gz", "same checksum", there=True),
    skipped(".git", "excluded by '.git'", there=False),
    Failure("/work/derivatives/a\nb", "", "", "InvalidKey", "holds the control character U+000A", "routing"),
)


def test_the_figures_of_a_plan() -> None:
    figures = plan_of(*OUTCOMES).figures()
    assert figures.as_dict() == {
        "new": {"objects": 3, "bytes": 20 * MIB + 305},
        "changed": [{"reason": "size differs", "objects": 1, "bytes": 8 * MIB}],
        "largest": [
            {"source": f"/work/derivatives/{name}", "key": f"study/{name}", "bytes": size_bytes}
            for name, size_bytes in (
                ("sub-02/func/bold.nii.gz", 20 * MIB),
                ("sub-01/func/bold.nii.gz", 8 * MIB),
                ("sub-01/anat/T1w.json", 300),
            )
        ],
        "folders": [
            {"folder": "sub-02", "objects": 1, "bytes": 20 * MIB},
            {"folder": "sub-01", "objects": 2, "bytes": 8 * MIB + 300},
            {"folder": "", "objects": 1, "bytes": 5},
        ],
        "kinds": [
            {"kind": ".nii.gz", "objects": 2, "bytes": 28 * MIB},
            {"kind": ".json", "objects": 1, "bytes": 300},
            {"kind": "", "objects": 1, "bytes": 5},
        ],
        # 20 MiB are three parts, 8 MiB one.
        "requests": {
            "ListObjectsV2": 2,
            "PutObject": 2,
            "CreateMultipartUpload": 2,
            "UploadPart": 4,
            "CompleteMultipartUpload": 2,
        },
    }
    assert figures.size_bytes == 28 * MIB + 305


def test_the_screen_of_a_plan_at_80_columns() -> None:
    report, paper = plan_of(*OUTCOMES), Paper(columns=80)
    prices = Prices(put=5.0, get=0.4, storage=1024.0, currency="EUR")
    rows = plan_rows(report.figures(), report.counts, paper, prices=prices)
    assert (
        "\n".join([*plan_heading("derivatives", report.destination, paper), *rows])
        == """\
 derivatives → s3://b/study                                      nothing is sent
  new                    3 files   20.0 MiB
  changed                1 file     8.0 MiB  size differs
  unchanged              1 file     7 bytes
  left out               1 path   excluded by '.git'
  cannot be sent         1 file
  largest          20.0 MiB  sub-02/func/bold.nii.gz
                    8.0 MiB  sub-01/func/bold.nii.gz
                  300 bytes  sub-01/anat/T1w.json
  by folder      sub-02 1 · 20.0 MiB   sub-01 2 · 8.0 MiB   (top) 1 · 5 bytes
  by kind        .nii.gz 2 · 28.0 MiB   .json 1 · 300 bytes   (none) 1 · 5 bytes
  for example    sub-02/func/bold.nii.gz → study/sub-02/func/bold.nii.gz
  requests       2 PutObject · 2 CreateMultipartUpload · 4 UploadPart
                 2 CompleteMultipartUpload · 2 ListObjectsV2 · 12 in all
  cost           0.06 EUR for requests · 28.00 EUR a month"""
    )


names = st.lists(st.text("ab-_é/\n\x1b.", min_size=1, max_size=40), min_size=1, max_size=4).map("/".join)


@given(
    files=st.lists(
        st.tuples(names, st.integers(0, 10**13), st.sampled_from(["not there", "size differs"])), max_size=8
    ),
    columns=st.integers(1, 200),
    ascii_only=st.booleans(),
)
def test_no_line_of_a_plan_is_wider_than_the_terminal(
    files: list[tuple[str, int, str]], columns: int, ascii_only: bool
) -> None:
    report, paper = plan_of(*(planned(*each) for each in files)), Paper(columns=columns, ascii_only=ascii_only)
    for line in plan_rows(report.figures(), report.counts, paper, prices=Prices(put=1, storage=1)):
        assert line.isprintable()
        assert len(line) <= max(columns, 50)


def test_folders_are_those_at_which_names_part_and_the_example_is_a_file_whose_name_changes() -> None:
    figures = PlanFigures(
        BASIS,
        [planned(f"work/sub-{n}/f.txt", n, key=f"run/motion/sub-{n}/f.txt") for n in range(1, 9)]
        + [planned("same.txt", 99, key="run/motion/sub-1/same.txt")],
    )
    top = figures.folders.largest(2)
    assert [(name, amount.objects) for name, amount in top] == [
        ("run/motion/sub-1", 2), ("run/motion/sub-8", 1), ("others", 6)
    ]  # fmt: skip
    assert figures.example is not None
    assert figures.example.key == "study/run/motion/sub-1/f.txt"


@pytest.mark.long
def test_a_million_files_take_the_memory_of_a_few() -> None:
    def many(number: int) -> Iterator[Planned]:
        return (planned(f"folder-{n}/sub-{n % 7}/f.k{n}", n) for n in range(number))

    PlanFigures(BASIS, many(20_000))
    tracemalloc.start()
    PlanFigures(BASIS, many(20_000))
    few = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    PlanFigures(BASIS, many(60_000))
    assert tracemalloc.get_traced_memory()[1] < few * 1.2
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b_bold.nii.gz", ".nii.gz"), ("T1w.JSON", ".json"), ("README", ""), (".bidsignore", ""), ("a.b/c", ""),
        ("x.tar.gz", ".tar.gz"), ("sub-01.desc-preprocessed.gz", ".gz"), ("end.", "."),
    ],
)  # fmt: skip
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_prices() -> None:
    prices = prices_of({"put": "0.005", "get": 0.0004, "currency": "USD"}, "--prices")
    assert prices == Prices(put=0.005, get=0.0004, currency="USD")
    requests = {"PutObject": 1000, "ListObjectsV2": 1000, "HeadObject": 1000, "AbortMultipartUpload": 9}
    assert prices.requests(requests) == pytest.approx(0.0104)
    assert [money(each, "USD") for each in (0, 0.0121, 12.345, 0.000001)] == [
        "0.00 USD", "0.012 USD", "12.35 USD", "less than 0.0001 USD"
    ]  # fmt: skip
    for given_prices in ({}, {"putt": 1}, {"put": "much"}, {"put": True}, {"put": -1}, {"storage": "nan"}):
        with pytest.raises(ConfigError, match=r"^--prices has .*; expected "):
            prices_of(given_prices, "--prices")


def test_the_list_has_every_file_in_the_order_of_names() -> None:
    lines = [list_line(file, Paper(ascii_only=True)) for file in planned_files(plan_of(*OUTCOMES, *OUTCOMES[:1]))]
    assert lines == [
        "  left out                   .git  (excluded by '.git')",
        "  new               5 bytes  README",
        r"  cannot be sent             a\nb  (InvalidKey)",
        "  new             300 bytes  sub-01/anat/T1w.json",
        "  unchanged         7 bytes  sub-01/anat/T1w.nii.gz",
        "  changed           8.0 MiB  sub-01/func/bold.nii.gz  (size differs)",
        "  new              20.0 MiB  sub-02/func/bold.nii.gz",
        "  new              20.0 MiB  sub-02/func/bold.nii.gz",
    ]
    renamed = plan_of(planned("a", key="b"))
    assert [list_line(file, Paper()) for file in planned_files(renamed)] == ["  new              10 bytes  a → b"]
    pages = plan_of(*(planned(f"{n:04}") for n in range(2500, 0, -1)))
    assert [file.name for file in planned_files(pages)] == [f"{n:04}" for n in range(1, 2501)]
