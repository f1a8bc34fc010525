"""How endings are put into words."""

from __future__ import annotations

import pytest

from asyncsink.engine.transfer.outcomes import error_of
from asyncsink.errors import AsyncSinkError, Throttled
from asyncsink.model import Failure


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Throttled", Throttled), *((name, AsyncSinkError) for name in ("IntegrityError", "ExportFailed", "Sequence"))],
)
def test_the_error_of_a_failure_has_its_class_where_that_takes_a_sentence(name: str, kind: type[Exception]) -> None:
    error = error_of(Failure("/s/f", "k", "s3://b/k", name, "A sentence.", "upload"))
    assert (type(error), str(error)) == (kind, "A sentence.")
