"""One call of `put` or `submit`, and the entries that it brings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import field
from typing import Any, Literal, get_args

from asyncsink.engine.planning.walk import discovery_of
from asyncsink.engine.queue_entries import Work
from asyncsink.engine.recording.recorder import Completion
from asyncsink.engine.transfer.outcomes import forbids_run, is_skip, problem_outcome, published
from asyncsink.errors import DeadlinePassed
from asyncsink.model import Found, Receipt, Skip, SourceProblem, Transfer
from asyncsink.options.put_options import NO_OPTIONS, parse_put_options
from asyncsink.options.schema import Policies, Settings, Target
from asyncsink.options.typed import PutOptions
from asyncsink.options.values import check_choice, deadline_of
from asyncsink.routing.keys import given_key
from asyncsink.sources.opening import outputs_source
from asyncsink.sources.outputs import OutputsSource
from asyncsink.sources.selection import Selection
from asyncsink.value import dataclass


@dataclass(slots=True, eq=False)
class Call:
    """One call of `put` or `submit`.

    Attributes:
        found: what its paths lead to; iterating blocks, and raises an error that forbids everything after it.
        alone: for `put`, how a message names the path that is to be one file; "" for `submit`.
        completion: done when the file is recorded, or the paths are queued, or `error` says why not.
        count: transfers that are queued.
        over: whether everything is queued.
        error: why nothing (`put`), or nothing further (`submit`), is queued.
    """

    found: Iterator[Found]
    alone: str = ""
    completion: Completion = field(default_factory=Completion)
    count: int = 0
    over: bool = False
    error: Exception | None = None
    _more: bool = True
    _refused: bool = False
    _withdrawn: bool = False
    _items: list[CallItem] = field(default_factory=list)
    _left: int = 0

    def release(self) -> None:
        """Forget the entries: each refers to its call, a circle that only the garbage collector would find."""
        self._items = []

    @property
    def queued(self) -> bool:
        """Whether some entry is in the queue, or with a worker."""
        return any(item.queued or item.taken for item in self._items)

    def outcome(self) -> Receipt | Skip | None:
        """What became of the one file of `put`; None where it was not published, because the sink was closed.

        Raises:
            PutFailed: it was not published.
        """
        return published(self.completion.outcomes) if self.completion.outcomes else None


@dataclass(slots=True, eq=False)
class CallItem(Work):
    """One entry of a call. A thread has it until it is `ready`, or waits for the turn of its key.

    Attributes:
        key: of the transfer, or "".
        turn: called when the item gets the turn of its key.
        holds: whether it has that turn.
        ready: whether it is on its way to the queue, in no thread any more.
        queued: whether it is in the queue, or gathered for it: its call does not wait for it any more.
        refused: why it cannot be queued, or None.
    """

    call: Call | None = None
    key: str = ""
    turn: Callable[[CallItem], None] | None = None
    holds: bool = False
    ready: bool = False
    queued: bool = False
    refused: Exception | None = None

    @property
    def name(self) -> Hashable:
        """As in `Accepted`."""
        return self.key if isinstance(self.found, Transfer) else self.completion

    def given(self) -> None:
        """Report that the item has the turn of its key."""
        assert self.turn is not None
        self.turn(self)


OnCancel = Literal["withdraw", "detach"]


def patience_of(deadline_seconds: float | None, on_cancel: OnCancel = "withdraw") -> Patience:
    """The arguments of a call as a value.

    Raises:
        ConfigError: one of them is wrong.
    """
    check_choice("on_cancel", on_cancel, get_args(OnCancel))
    return Patience(deadline_of(deadline_seconds), on_cancel == "withdraw")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller of `put` waits, and what becomes of its file where it stops waiting.

    Attributes:
        deadline_seconds: of the wait, or None.
        withdraws: whether the file is withdrawn then, or when the caller is cancelled; else it is published all the
            same, if it is queued.
    """

    deadline_seconds: float | None = None
    withdraws: bool = True

    def passed(self, what: str, *, goes_on: bool = False) -> DeadlinePassed:
        """The error of a call whose deadline has passed; `what` names its file, which is published all the same where
        it `goes_on`."""
        rest = "it is still on its way" if goes_on else "nothing more is sent for it"
        return DeadlinePassed(
            f"{what} was not published within deadline_seconds={self.deadline_seconds:g}; {rest}.", report=None
        )


class Calls:
    """Makes the calls of one sink.

    Args:
        settings: of the run.
        target: of the run, where it is another one than that of the settings.
    """

    def __init__(self, settings: Settings, target: Target) -> None:
        self._discovery = discovery_of(settings, target, outputs_source({}, settings))
        self._settings = settings
        self._selection = Selection(settings.policies)

    def of(
        self, attribute: str, paths: Any, *, alone: str = "", key: str | None = None, options: PutOptions = NO_OPTIONS
    ) -> Call:
        """A call for the files at the paths.

        Args:
            alone: as in Call.
            key: the exact key of the only file; None where DataSink's rules make it.
            options: of each file.

        Raises:
            ConfigError: the key, an option or a path can be none.
        """
        if key is not None:
            key = given_key(key, bytes_max=self._discovery.router.bytes_max)
        own = parse_put_options(options, self._settings)
        policies, compat = self._settings.policies, self._settings.walk_compat
        source = OutputsSource({attribute: paths}, symlinks=policies.symlinks, compat=compat, selection=self._selection)
        discovery = self._discovery.of(source, key=key, objects=own.objects, overwrite=own.overwrite)
        return Call(_admitted(discovery, policies), alone)


def _admitted(found: Iterable[Transfer | SourceProblem], policies: Policies) -> Iterator[Found]:
    """The entries that go on to the queue; raises the error of one that forbids all after it."""
    for item in found:
        if isinstance(item, Transfer):
            yield item
        elif is_skip(item, policies):
            skip = problem_outcome(item, policies)
            assert isinstance(skip, Skip)
            yield skip
        elif forbids_run(item, policies):
            raise item.error
        else:
            yield item
