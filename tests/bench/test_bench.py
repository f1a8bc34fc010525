"""`asyncsink bench` on a real server: what it measures, what it leaves, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from asyncsink.bench.latencies import Latencies
from asyncsink.bench.order import parse_order
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN, Status
from asyncsink.testing.toxics import Latency

Bench = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def bench(run_inside: Any, seaweed: DevServer, bucket: str) -> Bench:
    def run(*words: str, endpoint_url: str = "") -> CompletedProcess[bytes]:
        environment = {**seaweed.environment, "PATH": "/usr/bin:/bin"}
        if endpoint_url:
            environment["AWS_ENDPOINT_URL"] = endpoint_url
        result: CompletedProcess[bytes] = run_inside("bench", f"s3://{bucket}/tmp", *words, env=environment)
        return result

    return run


def keys(s3: Any, bucket: str) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_a_mix_is_measured_step_by_step_and_nothing_is_left(bench: Bench, s3: Any, bucket: str, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    mix = ("--mix", "put:3,get:2,head:1", "--sizes", "lognormal:4KiB:1", "--ramp", "1,3", "--seconds", "0.4")
    ended = bench(*mix, "--cleanup", "--json", "--report", str(page))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["ok"] is True
    assert [step["workers"] for step in told["steps"]] == [1, 3]
    for step in told["steps"]:
        operations = {kind: each["seconds"]["count"] for kind, each in step["operations"].items()}
        assert operations["put"] > operations["head"]
        assert sum(operations.values()) == sum(number for number, _ in step["each_second"])
        assert step["requests"]["PutObject"] == operations["put"] == step["first_byte_seconds"]["PutObject"]["count"]
        assert step["requests"]["GetObject"] == operations["get"]
        times = step["operations"]["put"]["seconds"]
        assert 0 < times["p50"] <= times["p99"] <= times["p100"] < 60
        assert times == step["operations"]["put"]["service_seconds"]
    assert told["objects_left"] == 0
    assert told["objects_written"] > 256
    assert keys(s3, bucket) == []
    html = page.read_text(encoding="utf-8")
    assert html.count("<polyline") == 8
    assert not re.search(r"https?://", html)


def test_without_cleanup_the_objects_stay_and_are_named(bench: Bench, s3: Any, bucket: str) -> None:
    ended = bench("--ramp", "2", "--seconds", "0.3", "--sizes", "1KiB")
    assert ended.returncode == 0
    left = keys(s3, bucket)
    text = ended.stdout.decode()
    folder = left[0].rpartition("/")[0]
    assert f"{len(left):,} objects ({len(left):,}.0 KiB)" in text or f"{len(left):,} objects" in text
    assert f"s3://{bucket}/{folder}" in text
    assert "--cleanup deletes them" in text


def test_in_an_open_loop_what_a_stall_delays_counts_from_when_it_was_due(bench: Bench, seaweed: DevServer) -> None:
    """One answer that is half a second late delays fifty operations; a closed loop would see one."""
    late = Rule(Latency(0.5), operation="PutObject", nth=5)
    with FaultProxy(seaweed.endpoint_url, late) as proxy:
        ended = bench(
            "--ramp", "1", "--rate", "100", "--seconds", "1", "--json", "--cleanup", endpoint_url=proxy.endpoint_url
        )
    step = json.loads(ended.stdout)["steps"][0]
    times, service = (step["operations"]["put"][name] for name in ("seconds", "service_seconds"))
    assert times["p50"] > service["p50"]
    assert times["count"] + step["not_begun"] == 100


def test_slow_downs_and_errors_are_counted_apart(bench: Bench, seaweed: DevServer) -> None:
    with FaultProxy(seaweed.endpoint_url, Rule(SLOW_DOWN, operation="PutObject", times=3)) as proxy:
        ended = bench("--ramp", "2", "--seconds", "0.5", "--json", "--cleanup", endpoint_url=proxy.endpoint_url)
    step = json.loads(ended.stdout)["steps"][0]
    assert (step["slow_downs"], step["errors"], ended.returncode) == (3, 0, 0)
    assert step["retries"] >= 3
    denied = Rule(Status(403, "AccessDenied"), operation="GetObject")
    with FaultProxy(seaweed.endpoint_url, denied) as proxy:
        words = ("--mix", "get", "--ramp", "1", "--seconds", "0.1", "--sizes", "1KiB", "--json", "--cleanup")
        ended = bench(*words, endpoint_url=proxy.endpoint_url)
    told = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert told["ok"] is False
    errors = told["steps"][0]["operations"]["get"]["errors"]
    assert list(errors) == ["AccessDenied"]
    assert errors["AccessDenied"] == told["steps"][0]["errors"] > 0
    assert told["objects_left"] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--mix", "put:80,delete:20"),
            "--mix put:80,delete:20 has 'delete:20'; expected weights of put, get and head",
        ),
        (("--mix", "put:0"), "has nothing to do"),
        (("--mix", "put:1,put:2"), "has 'put:2'"),
        (("--ramp", "1,x"), "is no list of steps"),
        (("--ramp", "5000"), "is no list of steps"),
        (("--seconds", "0"), "is no length of a step"),
        (("--seconds", "soon"), "seconds"),
        (("--rate", "-3"), "is no rate"),
        (("--sizes", "big"), "is no size, and no file that can be read"),
        (("--seed", "x"), "is no number"),
        (("--report", "/no/such/folder/x.html"), "does not exist; make it"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sent(
    bench: Bench, s3: Any, bucket: str, words: tuple[str, ...], sentence: str
) -> None:
    ended = bench(*words)
    told = ended.stderr.decode()
    assert ended.returncode == 2
    assert sentence in " ".join(told.split()), told
    assert told.count("\n") <= 3
    assert keys(s3, bucket) == []


def test_a_directory_is_no_destination(run_inside: Any, tmp_path: Path) -> None:
    ended = run_inside("bench", str(tmp_path), env={"PATH": "/usr/bin:/bin"})
    assert ended.returncode == 2
    assert b"is a directory; expected s3://bucket/prefix" in ended.stderr


def test_orders_of_python_are_those_of_the_command() -> None:
    order = parse_order(
        mix="put:80, get:15,head:5", sizes="16KiB", ramp="1, 4", seconds=30, rate=None, seed=1, cleanup=True
    )
    assert order.mix == {"put": 80, "get": 15, "head": 5}
    assert (order.ramp, order.seconds, order.reads) == ((1, 4), 30.0, True)
    with pytest.raises(ConfigError, match="is no rate"):
        parse_order(mix="put", sizes="1", ramp="1", seconds="1m", rate="fast", seed=1, cleanup=False)


def test_histograms_are_exact_to_three_digits() -> None:
    times = Latencies()
    for number in range(1, 10_001):
        times.add(number / 1e4)
    told = times.as_dict()
    assert told["count"] == 10_000
    assert told["p50"] == pytest.approx(0.5, rel=2e-3)
    assert told["p99.9"] == pytest.approx(0.999, rel=2e-3)
    assert Latencies().percentile(99) is None


def test_checksums_can_be_left_out_beside_tools_that_send_none(bench: Bench, s3: Any, bucket: str) -> None:
    ended = bench("--ramp", "1", "--seconds", "0.5", "--mix", "put:1,get:1", "--checksum", "none")
    assert ended.returncode == 0, ended.stderr
    assert keys(s3, bucket)
    for key in keys(s3, bucket):
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert not [name for name in head if name.startswith("Checksum") and name != "ChecksumType"]


def test_help_tells_the_defaults(run_inside: Any) -> None:
    text = run_inside("bench", "--help", env={"PATH": "/usr/bin:/bin"}).stdout.decode()
    for default in ("put", "16KiB", "1,4,16,64", "30", "1"):
        assert f"(default {default})" in " ".join(text.replace("│", " ").split())
