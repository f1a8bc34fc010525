"""What a command writes for later and for machines: its log, and the events of the run as JSON lines."""

from __future__ import annotations

import json
import os
import re
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.logs.event_lines import EventLines
from asyncsink.errors import ConnectionLost, DestinationFull
from asyncsink.model import Event, LimitChanged, Paused, Retried
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import Status

Cli = Any


def events_of(text: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        datetime.fromisoformat(event["time"])
    return events


def test_the_events_of_a_run_are_json_lines(inside: Cli, results: Path, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    ended = inside("export", results, f"s3://{bucket}", "--events", file, "--json")
    events = events_of(file.read_text())
    names = [event["event"] for event in events]
    assert names[0] == "progress"
    assert names[-1] == "ended"
    assert {"started", "finished", "progress"} <= set(names)
    finished = [event for event in events if event["event"] == "finished"]
    assert [event["record"] for event in finished] == ["receipt"] * 4
    assert {event["key"] for event in finished} == {"a.txt", "sub/b=1.nii", "sub/deep/c.json", "é.par"}
    told = ended.json
    assert {name: events[-1][name] for name in ("objects_uploaded", "bytes_uploaded", "transport")} == {
        name: told[name] for name in ("objects_uploaded", "bytes_uploaded", "transport")
    }
    again = inside("export", results, f"s3://{bucket}", "--events", "-")
    events = events_of(again.stdout)
    assert [event["record"] for event in events if event["event"] == "finished"] == ["skip"] * 4
    assert again.stderr.startswith("All 4 files"), "the result for people goes to stderr"


def test_a_grab_a_verification_and_a_check_have_events_too(
    inside: Cli, results: Path, bucket: str, tmp_path: Path
) -> None:
    manifest, file = tmp_path / "m.jsonl", tmp_path / "e.jsonl"
    assert inside("export", results, f"s3://{bucket}", "--manifest", manifest).code == 0
    for command in (
        ("grab", f"s3://{bucket}", tmp_path / "back"),
        ("verify", manifest),
        ("check", results, f"s3://{bucket}"),
    ):
        assert inside(*command, "--events", file).code == 0
        events = events_of(file.read_text())
        assert (events[0]["event"], events[-1]["event"]) == ("progress", "ended"), command
        assert sum(event["event"] == "finished" for event in events) == (4 if command[0] == "grab" else 0)


def test_files_that_a_run_cannot_write_are_refused(inside: Cli, results: Path, bucket: str, keys: Any) -> None:
    for flag in ("--events", "--log-file"):
        inner = inside("export", results, f"s3://{bucket}", flag, results / "own.jsonl")
        assert inner.code == 2
        assert f"The file of {flag}, {results}/own.jsonl lies inside the source" in inner.stderr
        (results / "own.jsonl").unlink()
        nowhere = inside("export", results, f"s3://{bucket}", flag, results / "no" / "own.jsonl")
        assert nowhere.code == 2
        assert re.search(rf"error: {flag} .*/no/own.jsonl cannot be written \(No such file", nowhere.stderr)
    both = inside("export", results, f"s3://{bucket}", "--events", "-", "--json")
    assert (both.code, "both write to standard output" in both.stderr) == (2, True)
    assert keys() == []


def test_a_full_disk_ends_neither_run_nor_silence(inside: Cli, results: Path, bucket: str, keys: Any) -> None:
    events = inside("export", results, f"s3://{bucket}/e", "--events", "/dev/full")
    assert events.code == 1
    assert "The run is over, but --events /dev/full is incomplete (No space left on device)." in events.stderr
    logged = inside("export", results, f"s3://{bucket}/l", "--log-file", "/dev/full")
    assert logged.code == 0
    assert logged.stderr == "asyncsink: note: --log-file /dev/full is incomplete (No space left on device).\n"
    assert len(keys()) == 8


def test_v_tells_what_happens_to_the_run_and_vv_each_file(
    inside: Cli, results: Path, bucket: str, tmp_path: Path, seaweed: Any
) -> None:
    file = tmp_path / "run.log"
    denied = Rule(Status(403, "AccessDenied"), operation="PutObject", key="*a.txt")
    with FaultProxy(seaweed.endpoint_url, denied) as proxy:
        quiet = inside("export", results, f"s3://{bucket}/q", "--log-file", file, "--endpoint-url", proxy.endpoint_url)
    log = file.read_text()
    assert quiet.code == 1
    assert "INFO" not in quiet.stderr
    assert re.search(r"^\S+ \S+ INFO asyncsink\.engine: sending by wire", log, re.MULTILINE)
    assert re.search(r"WARNING asyncsink\.engine: failed .*a\.txt -> s3://", log)
    assert "DEBUG" not in log
    one = inside("export", results, f"s3://{bucket}/1", "-v", "--log-file", file)
    assert "INFO asyncsink.engine: sending by wire" in one.stderr
    assert "published" not in one.stderr
    two = inside("export", results, f"s3://{bucket}/2", "-vv")
    assert f"-> s3://{bucket}/2/a.txt" in two.stderr
    assert file.read_text().startswith(log), "what it had stays"


class _Pipe:
    """A pipe whose other end is read by the test."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()


def test_events_have_errors_as_sentences(tmp_path: Path) -> None:
    pipe = _Pipe()
    lines, seen = EventLines("-", pipe.write), []
    observe = lines.watch(seen.append)
    told: list[Event] = [
        Retried("PutObject", "a", 1, ConnectionLost("It broke.", operation="PutObject"), 0.5),
        Paused("127.0.0.1:9", "refuses connections", 6.0, 2, 54.0),
        LimitChanged(8, 4, "the server throttles"),
    ]
    for event in told:
        observe(event)
    lines.end({"objects_total": 1, "failures": [{}]})
    os.close(pipe.write)
    with open(pipe.read, encoding="utf-8") as read:
        retried, paused, limit, ended = events_of(read.read())
    assert seen == told
    assert retried["error"] == {"type": "ConnectionLost", "message": "It broke."}
    assert (paused["event"], paused["seconds_left"], limit["event"], limit["after"]) == (
        "paused",
        54.0,
        "limit_changed",
        4,
    )
    assert ended.keys() == {"event", "time", "objects_total"}


@pytest.mark.parametrize(("name", "raises"), [("-", False), ("events", True)])
def test_a_reader_that_goes_away_ends_nothing(name: str, raises: bool) -> None:
    pipe = _Pipe()
    lines = EventLines(name, pipe.write)
    os.close(pipe.read)
    if raises:
        with pytest.raises(DestinationFull, match="events is incomplete"):
            lines.end({})
    else:
        lines.end({})
        os.close(pipe.write)
    assert not any(thread.name == "asyncsink-events" for thread in threading.enumerate())
