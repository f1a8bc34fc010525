"""How old an upload is, and how an age is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import ConfigError
from asyncsink.maintenance.abort_uploads import age_seconds
from asyncsink.options.values import parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), (90, 90), (0.5, 0.5), (timedelta(hours=1), 3600)],
)
def test_durations(value: Any, seconds: float) -> None:
    assert parse_duration(value, "older_than") == seconds


@pytest.mark.parametrize(
    "value", ["", "24", "h", "1.5h", "-1h", "24H", "1w", "1h30m", " 1h", "٣h", -1, True, None, float("nan"), "9" * 99]
)
def test_what_is_no_duration(value: Any) -> None:
    with pytest.raises(ConfigError, match="is no duration; expected a number and a unit, as 90s, 15m, 24h or 7d"):
        parse_duration(value, "older_than")


@given(
    began_seconds=st.floats(1.2e9, 4.1e9),
    server_seconds=st.floats(-1e9, 4e9) | st.none(),
    here_seconds=st.floats(-4e8, 4e8),
)
def test_an_age_is_never_more_than_either_clock_says(
    began_seconds: float, server_seconds: float | None, here_seconds: float
) -> None:
    began = datetime.fromtimestamp(began_seconds, UTC)
    here = began + timedelta(seconds=here_seconds)
    answered = None if server_seconds is None else began + timedelta(seconds=server_seconds)
    age = age_seconds(began, answered, here)
    told = [now for now in (answered, here) if now is not None]
    if age is None:
        assert all(now < began for now in told)
    else:
        assert age >= 0
        assert age == 0 or all(began + timedelta(seconds=age - 1) <= now for now in told)
