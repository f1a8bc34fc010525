"""The outcomes of a transfer, from the state of its destinations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Final

from asyncsink import errors
from asyncsink.destinations.base import Stored
from asyncsink.engine.recording.recorder import Completion, Passed
from asyncsink.engine.transfer.destination_state import DestinationState
from asyncsink.errors import (
    AlreadyThere,
    AsyncSinkError,
    ConfigError,
    PutFailed,
    SourceError,
    SourceMissing,
    TransferError,
    without_frames,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.integrity.sameness import IS_THERE, SkipIt, Upload
from asyncsink.journal.base import published_row
from asyncsink.model import Checksum, Failure, FailureStage, Outcome, Planned, Receipt, Skip, SourceProblem, Transfer
from asyncsink.options.schema import Policies
from asyncsink.report.outcomes import encoded_receipts, receipt_line
from asyncsink.s3.operations import FileStored
from asyncsink.value import dataclass

SUPERSEDED: Final = "a later source has the same key"
_RETRYABLE = frozenset(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.RetryableError)
) | {"Unproved"}
REPEATED: Final = "the same source came before, under the same key"


@dataclass(slots=True)
class Ending:
    """One transfer when its attempts are over.

    Attributes:
        transfer: as it was last tried.
        states: the destination's, then the local copy's if there is one.
        checksum: of the bytes that were read, or None.
        source_error: why nothing could be read, or why the bytes are void; ends every destination.
        completion: of the caller that waits, or None.
    """

    transfer: Transfer
    states: Sequence[DestinationState] = field(default_factory=list)
    checksum: Checksum | None = None
    source_error: AsyncSinkError | None = None
    completion: Completion | None = None

    def reset(self, states: Sequence[DestinationState]) -> None:
        """Forget the last attempt."""
        self.states = states
        self.checksum = None
        self.source_error = None


def word_outcomes(ending: Ending, seconds: float, policies: Policies) -> list[Outcome]:
    """One outcome for the destination, and a Failure beside it where only the local copy failed."""
    transfer, primary = ending.transfer, ending.states[0]
    url = primary.destination.url(transfer)
    if ending.source_error is not None:
        return [failure(transfer, url, ending.source_error)]
    outcomes: list[Outcome] = []
    copied = ""
    if len(ending.states) > 1:
        copy = ending.states[1]
        path = copy.destination.url(transfer)
        if copy.error is not None:
            outcomes.append(failure(transfer, path, copy.error, stage="local copy"))
        elif copy.stored is not None or copy.same:
            copied = path
    outcomes.insert(0, _primary_outcome(ending, primary, url=url, copied=copied, seconds=seconds, policies=policies))
    return outcomes


def _primary_outcome(
    ending: Ending, primary: DestinationState, *, url: str, copied: str, seconds: float, policies: Policies
) -> Outcome:
    transfer, file = ending.transfer, ending.transfer.source
    if primary.error is not None:
        return not_stored(transfer, url, primary.error, copied)
    if primary.stored is not None:
        return receipt(transfer, primary.stored, ending.checksum, seconds, copied)
    if isinstance(primary.decision, SkipIt):
        existing, known = primary.existing, primary.known
        proved = known if known is not None and known.published else None
        if proved is not None and existing is not None and existing.etag != proved.etag:
            proved = None  # the object is another one than was published, though its content may be the same
        return Skip(
            source=file.path,
            key=transfer.key,
            url=url,
            size_bytes=existing.size_bytes if existing is not None else file.size_bytes,
            reason=primary.decision.reason,
            checksum=proved.checksum if proved is not None else _known_checksum(ending, policies),
            etag=existing.etag if existing is not None else proved.etag if proved is not None else "",
            local_copy=copied,
            entry=file.entry,
            version_id=proved.version_id if proved is not None else "",
            attribute=file.attribute,
        )
    assert isinstance(primary.decision, Upload)  # a dry run ends here
    return Planned(
        source=file.path,
        key=transfer.key,
        url=url,
        size_bytes=file.size_bytes,
        reason=primary.decision.reason,
        entry=file.entry,
        attribute=file.attribute,
    )


def _known_checksum(ending: Ending, policies: Policies) -> Checksum | None:
    """The object's checksum: the server's, or the computed one where the comparison proved that it is the same."""
    existing, algorithm = ending.states[0].existing, policies.algorithm
    if algorithm is None or existing is None:
        return None
    if not existing.size_bytes and not ending.transfer.source.size_bytes:
        return checksum_of(b"", algorithm)
    if algorithm in existing.checksums:
        return Checksum(algorithm, existing.checksums[algorithm])
    compared = (ending.transfer.overwrite or policies.overwrite) in ("checksum", "journal")
    return ending.checksum if compared else None


def receipt(
    transfer: Transfer, stored: Stored, checksum: Checksum | None, seconds: float, local_copy: str = ""
) -> Receipt:
    """A Receipt from a destination's proof."""
    return Receipt(
        source=transfer.source.path,
        key=transfer.key,
        url=stored.location,
        size_bytes=transfer.source.size_bytes,
        checksum=checksum,
        etag=stored.etag,
        version_id=stored.version_id,
        attempts=stored.attempts,
        seconds=seconds,
        local_copy=local_copy,
        confirmed_by=stored.confirmed_by,
        entry=transfer.source.entry,
        attribute=transfer.source.attribute,
    )


def passed_of(stored: Sequence[tuple[Transfer, FileStored]], url: Callable[[Transfer], str]) -> Passed:
    """The receipts of small files as lines of the log, with their rows for the journal; equal to a Receipt for each.
    Pure."""
    lines, rows, size_bytes = [], [], 0
    for transfer, told in stored:
        source = transfer.source
        size_bytes += source.size_bytes
        lines.append(
            receipt_line(
                source.path,
                transfer.key,
                url(transfer),
                source.size_bytes,
                checksum=told.checksum,
                etag=told.etag,
                version_id=told.version_id,
                attempts=1,
                seconds=told.seconds,
                local_copy="",
                confirmed_by="server-checksum",
                entry=source.entry,
                attribute=source.attribute,
            )
        )
        rows.append(published_row(transfer, told.etag, told.version_id, told.checksum))

    def receipts() -> list[Receipt]:
        return [
            receipt(
                transfer,
                Stored(
                    location=url(transfer),
                    etag=told.etag,
                    version_id=told.version_id,
                    confirmed_by="server-checksum",
                ),
                told.checksum,
                told.seconds,
            )
            for transfer, told in stored
        ]

    return Passed(encoded_receipts(lines, size_bytes, "server-checksum"), rows, receipts)


def not_stored(transfer: Transfer, url: str, error: AsyncSinkError, local_copy: str = "") -> Skip | Failure:
    """The Failure for a destination's error; a Skip where another writer was first and nothing is to be replaced."""
    if not isinstance(error, AlreadyThere):
        return failure(transfer, url, error)
    return Skip(
        source=transfer.source.path,
        key=transfer.key,
        url=url,
        size_bytes=transfer.source.size_bytes if error.size_bytes is None else error.size_bytes,
        reason=IS_THERE,
        etag=error.etag,
        local_copy=local_copy,
        entry=transfer.source.entry,
        attribute=transfer.source.attribute,
    )


def may_pass(outcome: Outcome) -> bool:
    """Whether a failed transfer may succeed later: its cause may pass."""
    return isinstance(outcome, Failure) and outcome.stage in ("upload", "download") and outcome.error in _RETRYABLE


def failure(transfer: Transfer, url: str, error: AsyncSinkError, *, stage: FailureStage | None = None) -> Failure:
    """The Failure of a transfer."""
    source = transfer.source
    stage = stage or ("source" if isinstance(error, SourceError) else "upload")
    return failure_of(
        source.path, transfer.key, url, error, stage=stage, entry=source.entry, attribute=source.attribute
    )


def failure_of(
    source: str, key: str, url: str, error: AsyncSinkError, *, stage: FailureStage, entry: int = 0, attribute: str = ""
) -> Failure:
    """The Failure for an error, without a transfer."""
    attempts = error.attempts if isinstance(error, TransferError) else 0
    failed = Failure(source, key, url, type(error).__name__, str(error), stage, attempts, entry, attribute)
    return failed.caused_by(without_frames(error))


def error_of(failed: Failure) -> AsyncSinkError:
    """The error of a Failure: itself, or one of its class where the failure comes from another process."""
    if failed.cause is not None:
        return failed.cause
    kind = getattr(errors, failed.error, AsyncSinkError)
    if not issubclass(kind, AsyncSinkError) or issubclass(kind, (errors.IntegrityError, errors.ExportFailed)):
        kind = AsyncSinkError
    return kind(failed.message)


def published(outcomes: Sequence[Outcome]) -> Receipt | Skip:
    """The outcome of a single transfer that a caller waits for.

    Raises:
        PutFailed: it was not published.
    """
    outcome = outcomes[0]
    if isinstance(outcome, (Receipt, Skip)):
        return outcome
    assert isinstance(outcome, Failure)  # nothing is planned here
    raise PutFailed(outcome.message, failure=outcome, cause=error_of(outcome))


def is_skip(problem: SourceProblem, policies: Policies) -> bool:
    """Whether a policy makes the problem a reported Skip."""
    return problem.skipped or (problem.skippable and policies.on_missing == "skip")


def forbids_run(problem: SourceProblem, policies: Policies) -> bool:
    """Whether the problem forbids sending anything: no policy makes it a Skip, or a Failure beside which the rest is
    sent."""
    return not is_skip(problem, policies) and not (problem.unreadable and policies.on_unreadable == "skip")


def problem_reason(problem: SourceProblem) -> str:
    """Why a source was skipped, short enough to be counted."""
    if problem.reason:
        return problem.reason
    if problem.skipped:
        return "symbolic link"
    missing = isinstance(problem.error, SourceMissing)
    return "source is missing" if missing else "source is unreadable or no regular file"


def problem_outcome(problem: SourceProblem, policies: Policies) -> Outcome:
    """The outcome of something that was found but cannot be published: a reported Skip, or a Failure."""
    if is_skip(problem, policies):
        return Skip(
            source=problem.path,
            key="",
            url="",
            size_bytes=0,
            reason=problem_reason(problem),
            already_there=False,
            entry=problem.entry,
            attribute=problem.attribute,
        )
    stage: FailureStage = "routing" if isinstance(problem.error, ConfigError) else "source"
    return failure_of(
        problem.path, "", "", problem.error, stage=stage, entry=problem.entry, attribute=problem.attribute
    )
