"""A long run in bad weather: memory and descriptors sampled from outside, and everything compared at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.changing import REPLACED, ChangingTree, is_one_version
from benchmarks.chaos.flatness import trend
from benchmarks.chaos.soaking import AGAIN, LASTING
from benchmarks.chaos.tree import keys_below, uploads_below
from benchmarks.chaos.weather import Weather, phase_at, weather_before
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.measuring.verifying import reader_of
from benchmarks.servers.running import running_server

KIND: Final = "soak"
BUCKET: Final = "soak"
SAMPLE_SECONDS: Final = 1.0
ALLOWED_RSS_BYTES, ALLOWED_DESCRIPTORS, ALLOWED_THREADS = 8e6, 4, 4
"""So much may the low tide of the last third lie above that of the first."""
_LAST_ROUND_SECONDS: Final = 300.0
_READERS: Final = 8
_FLAT: Final = {True: "flat", False: "NOT FLAT", None: "too short to say"}
_ANSWERED: Final = ("published", "skipped", "retries")


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the measured process: seconds since the beginning, resident memory in bytes, open descriptors, threads; and
    how many faults its requests had met by then."""

    seconds: float
    rss_bytes: int
    descriptors: int
    threads: int
    faults: int


async def run_soak(minutes: float, seed: int, tell: Tell) -> dict[str, Any]:
    """Do it, and return the result, ready for JSON. Leaves no process and no file behind.

    Raises:
        RuntimeError: the measured process ended before its time; the message holds what it wrote to stderr.
    """
    started = datetime.now(UTC)
    samples: list[Sample] = []
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="asyncsink-soak-") as name:
        directory = Path(name)
        for each in ("server", "journals"):
            (directory / each).mkdir()
        with running_server("seaweed", directory / "server") as server, ChangingTree(directory / "tree", seed) as tree:
            client = reader_of(server)
            client.create_bucket(Bucket=BUCKET)
            async with weather_before(server, directory / "credentials", seed) as weather:
                async with _soaking(directory, weather) as process:
                    reading = asyncio.create_task(_read_rounds(process, rounds, tell))
                    await _sample(process.pid, weather, samples, minutes * 60)
                    await asyncio.to_thread(tree.stop)
                    weather.be("fair")
                    (directory / "stop").touch()
                    async with asyncio.timeout(_LAST_ROUND_SECONDS):
                        await reading
                        code = await process.wait()
                if code:
                    raise RuntimeError(f"The measured process ended with {code}: {_last(directory / 'stderr')}")
                weather.count()
            left = await asyncio.to_thread(_compare, client, directory / "tree", tree.names)
            client.close()
    trends = _trends(samples)
    outcomes = {each: _total(rounds, each) for each in (AGAIN, LASTING)}
    unexpected = sum(
        number
        for counted in outcomes.values()
        for word, number in counted.items()
        if word not in _ANSWERED and not word.startswith("Source")
    )
    good = not any(left[each] for each in ("wrong", "missing", "mixed", "open_uploads")) and not unexpected
    return {
        "kind": KIND,
        "started": started.isoformat(timespec="seconds"),
        "command": f"python -m benchmarks soak --minutes {minutes:g} --seed {seed}",
        "machine": describe_machine(),
        "versions": describe_versions(),
        "summary": {
            "good": good and all(each["flat"] is not False for each in trends.values()),
            "minutes": minutes,
            "rounds": len(rounds),
            "trends": trends,
            **left,
            "unexpected_failures": unexpected,
            "outcomes": outcomes,
            "changes": tree.changes,
            "requests": weather.requests,
            "faults": dict(weather.faults.most_common()),
            "credentials_ended": weather.rotations,
            "requests_with_ended_credentials": weather.expired,
        },
        "samples": [asdict(sample) for sample in samples],
    }


def render(result: dict[str, Any]) -> str:
    """Some lines for a person. Pure."""
    told = result["summary"]
    lines = [
        f"{told['minutes']:g} minutes, {told['rounds']:,} rounds, {told['requests']:,} requests, "
        f"{sum(told['faults'].values()):,} faults, {told['credentials_ended']:,} credentials ended, "
        f"{told['changes']:,} changes of the tree: {told['wrong']} wrong, {told['missing']} missing, {told['mixed']} "
        f"mixed, {told['open_uploads']} open uploads, {told['unexpected_failures']} unexpected failures."
    ]
    for name, unit, scale in (("rss_bytes", " MB", 1e6), ("descriptors", "", 1), ("threads", "", 1)):
        each = told["trends"][name]
        lines.append(
            f"  {name}: {_FLAT[each['flat']]}; low tide at first {each['first_third'] / scale:.1f}, at last "
            f"{each['last_third'] / scale:.1f}, most {each['most'] / scale:.1f}, "
            f"{each['slope_per_minute'] / scale:+.2f}{unit} a minute"
        )
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def _soaking(directory: Path, weather: Weather) -> AsyncIterator[asyncio.subprocess.Process]:
    order = {
        "tree": str(directory / "tree"),
        "url": f"s3://{BUCKET}",
        "endpoint_url": weather.endpoint_url,
        "journals": str(directory / "journals"),
        "stop": str(directory / "stop"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_SHARED_CREDENTIALS_FILE": str(directory / "credentials"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with (directory / "stderr").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.chaos.soaking", json.dumps(order),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=err, env=environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _read_rounds(process: asyncio.subprocess.Process, rounds: list[dict[str, Any]], tell: Tell) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        rounds.append(json.loads(line))
        unexpected = [word for each in (AGAIN, LASTING) for word in rounds[-1][each] if ": " in word]
        for word in unexpected:
            tell(f"  round {rounds[-1]['round']}: {word}")


async def _sample(pid: int, weather: Weather, samples: list[Sample], seconds: float) -> None:
    """Look at the process every second, and let the weather change, until the time is over or the process is."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        weather.be(phase_at(now))
        weather.count()
        try:
            samples.append(_look(pid, now, weather.fault_count))
        except OSError:
            return  # it has ended, and its exit code is looked at
        await asyncio.sleep(SAMPLE_SECONDS)


def _look(pid: int, seconds: float, faults: int) -> Sample:
    place = Path(f"/proc/{pid}")
    pages = int((place / "statm").read_text().split()[1])
    threads = sum(1 for _ in (place / "task").iterdir())
    descriptors = sum(1 for _ in (place / "fd").iterdir())
    return Sample(round(seconds, 2), pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads, faults)


def _trends(samples: list[Sample]) -> dict[str, dict[str, Any]]:
    times = [sample.seconds for sample in samples]
    allowed = {
        "rss_bytes": ALLOWED_RSS_BYTES,
        "descriptors": ALLOWED_DESCRIPTORS,
        "threads": ALLOWED_THREADS,
    }
    return {
        name: asdict(trend(times, [getattr(sample, name) for sample in samples], allowed=most))
        for name, most in allowed.items()
    }


def _total(rounds: list[dict[str, Any]], which: str) -> dict[str, int]:
    """Without the errors' sentences, which name files of this machine."""
    total: Counter[str] = Counter()
    for each in rounds:
        for word, number in each[which].items():
            total[word.partition(": ")[0]] += number
    return dict(total.most_common())


def _compare(client: Any, tree: Path, names: set[str]) -> dict[str, int]:
    """What both folders of the bucket have, compared with the tree, which is at rest.

    "mixed" are objects of files that were never anything but whole, and that are no version of theirs.
    """
    files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    left = {"objects": 0, "wrong": 0, "missing": 0, "extra": 0, "mixed": 0, "of_removed_files": 0}

    def read(key: str) -> tuple[str, bytes]:
        return key, client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    for folder in (AGAIN, LASTING):
        keys = keys_below(client, BUCKET, f"{folder}/")
        left["objects"] += len(keys)
        left["missing"] += len(files.keys() - {key.removeprefix(f"{folder}/") for key in keys})
        with ThreadPoolExecutor(_READERS) as threads:
            for key, content in threads.map(read, keys):
                name = key.removeprefix(f"{folder}/")
                left["wrong"] += name in files and content != files[name]
                left["of_removed_files"] += name not in files and name in names
                left["extra"] += name not in names
                left["mixed"] += name.startswith(f"{REPLACED}/") and not is_one_version(content)
    return {**left, "open_uploads": len(uploads_below(client, BUCKET, ""))}


def _last(path: Path) -> str:
    """The end of what it said."""
    return path.read_text(errors="replace")[-2000:]
