"""`asyncsink verify` and `merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command, is_bucket
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.screen.display import note_printer, progress_display
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.report.sentences import are, count, inert

MANIFESTS = "What export --manifest wrote; or a directory with receipts-*.jsonl."


def verify_command(
    manifests: Sequence[str], given: Mapping[str, Any], *, read_back: bool, manifest_endpoint: bool, output: Output
) -> int:
    """Verify every object of the manifests, print the result, and return the exit code."""
    from asyncsink.engine.recording.events import Progress
    from asyncsink.maintenance.verify import verify_manifest
    from asyncsink.maintenance.verify_report import VerifyReport

    progress = Progress()
    manifest = manifests[0] if len(manifests) == 1 else f"{len(manifests):,} manifests"
    says = "says" if len(manifests) == 1 else "say"

    def checked() -> int:
        return progress.counts.objects_total

    try:
        options = options_of(given)
        for each in manifests:
            if is_bucket(each):
                raise ConfigError(
                    f"asyncsink verify reads a receipt, and {each!r} is a bucket; to compare without a receipt: "
                    f"asyncsink check DIR {each}."
                )

        async def main() -> VerifyReport:
            title, opening = f"verify {manifest}", f"reading {manifest}…"
            with progress_display(title, opening, progress, noun="object", output=output):
                return await verify_manifest(
                    manifests,
                    read_back=read_back,
                    options=options,
                    progress=progress,
                    manifest_endpoint=manifest_endpoint,
                    tell=output.watch(note_printer(output)),
                )

        report = run_until_signalled(main)
    except Interrupted as stop:
        total = progress.objects_total
        of_all = count(checked(), "object") if total is None else f"{checked():,} of {count(total, 'object')}"
        wrong = progress.counts.objects_failed
        found = f"{wrong:,} of them {are(wrong)} not as {manifest} {says}" if wrong else "nothing wrong so far"
        output.note(inert(f"Interrupted: looked at {of_all}, {found}."))
        output.json_object({"manifest": manifest, "ok": False, "objects_total": checked(), "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1 if checked() else 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1
    return output.report(report)


# -- Merging manifests: `asyncsink merge` ------------------------------------------------------------------------------


def merge_command(manifests: Sequence[str], out_file: str, *, output: Output) -> int:
    """Merge manifests into one, print what is wrong with them, and return the exit code."""
    from asyncsink.maintenance.merge import MergeReport, merge_manifests

    known = {"manifest": out_file, "ok": False}
    try:

        async def main() -> MergeReport:
            return await merge_manifests(manifests, out_file)

        report = run_until_signalled(main)
    except Interrupted as stop:
        output.note("Interrupted: nothing was merged.")
        output.json_object({**known, "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, known)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    return output.report(report, "problem")


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    Argument("MANIFEST...", MANIFESTS),
    Flag(
        "--read-back",
        "Download every object and compute its checksum again.",
        everyday="download every object and compute its checksum again",
    ),
    Flag(
        "--manifest-endpoint",
        "Ask the server that MANIFEST names, though nothing else names it: it is sent your credentials.",
    ),
    rows="verify",
    examples=(
        "verify study.jsonl                # sizes and checksums",
        "verify study.jsonl --read-back    # download every byte",
        "verify sent/                      # all receipts of a directory",
    ),
)
def verify(manifest: Sequence[str], read_back: bool, manifest_endpoint: bool, **given: Any) -> int:
    """Check that every object of the manifests is still there, with its recorded size and checksum."""
    return verify_command(
        list(manifest), given, read_back=read_back, manifest_endpoint=manifest_endpoint, output=output_of(given)
    )


@command(
    Argument("MANIFEST...", MANIFESTS),
    Flag("--out", "The merged manifest.", metavar="FILE", short="-o", everyday="the merged manifest", required=True),
    rows="merge",
    examples=(
        "merge sent/sub-*.jsonl -o study.jsonl",
        "merge parts -o study.jsonl            # the receipts of a split",
        "merge monday.jsonl tuesday.jsonl -o study.jsonl",
    ),
)
def merge(manifest: Sequence[str], out: str, **given: Any) -> int:
    """Merge manifests into one that lists every object once.

    Missing, failed and interrupted manifests, and keys with two different objects, are named: exit code 1.
    """
    return merge_command(list(manifest), out, output=output_of(given))
