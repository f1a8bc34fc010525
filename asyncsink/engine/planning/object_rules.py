"""What objects are given by the patterns of `object_options`. Pure."""

from __future__ import annotations

from dataclasses import replace

from asyncsink.model import Transfer
from asyncsink.options.schema import ObjectOptions, Settings
from asyncsink.sources.patterns import Patterns


class ObjectRules:
    """The object options of keys that match a pattern: of one or several, the later over the earlier ones."""

    def __init__(self, settings: Settings) -> None:
        """Compile the patterns.

        Raises:
            ConfigError: one is malformed.
        """
        self._of_run = settings.objects
        rules = settings.policies.object_options
        self._patterns = Patterns((pattern for pattern, _ in rules), where="object_options").items
        self._fields = [fields for _, fields in rules]
        self._made: dict[tuple[int, ...], ObjectOptions | None] = {(): None}

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def of(self, key: str) -> ObjectOptions | None:
        """What the object under a key below the destination is given; None: as all others of the run. Equal choices
        are one instance."""
        chosen = tuple(number for number, pattern in enumerate(self._patterns) if pattern.covers(key))
        if chosen not in self._made:
            fields = {name: value for number in chosen for name, value in self._fields[number]}
            self._made[chosen] = replace(self._of_run, **fields)
        return self._made[chosen]

    def applied(self, transfer: Transfer, prefix: str) -> Transfer:
        """A transfer with the options of its key, where it has none of its own; `prefix` is the destination's."""
        if not self._patterns or transfer.objects is not None:
            return transfer
        objects = self.of(transfer.key.removeprefix(f"{prefix}/") if prefix else transfer.key)
        return transfer if objects is None else replace(transfer, objects=objects)
