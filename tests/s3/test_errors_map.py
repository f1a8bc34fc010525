"""The table from S3's answers to asyncsink's errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink import errors as e
from asyncsink.s3.errors_map import BY_CODE, error_from_answer, one_line, retry_after_seconds


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("InvalidAccessKeyId", 403, e.CredentialsError),
        ("SignatureDoesNotMatch", 403, e.CredentialsError),
        ("InvalidToken", 400, e.CredentialsError),
        ("ExpiredToken", 400, e.ExpiredCredentials),
        ("RequestTimeTooSkewed", 403, e.ClockSkew),
        ("SlowDown", 503, e.Throttled),
        ("ServiceUnavailable", 503, e.Throttled),
        ("ThrottlingOfANewKind", 400, e.Throttled),
        ("", 429, e.Throttled),
        ("", 503, e.Throttled),
        ("RequestTimeout", 400, e.RequestTimeout),
        ("InternalError", 500, e.ServerFault),
        ("InternalError", 200, e.ServerFault),
        ("", 502, e.ServerFault),
        ("504", 504, e.ServerFault),
        ("ConditionalRequestConflict", 409, e.ServerFault),
        ("OperationAborted", 409, e.ServerFault),
        ("BadDigest", 400, e.IntegrityError),
        ("InvalidDigest", 400, e.IntegrityError),
        ("XAmzContentSHA256Mismatch", 400, e.IntegrityError),
        ("NoSuchBucket", 404, e.BucketMissing),
        ("NoSuchUpload", 404, e.UploadMissing),
        ("NoSuchKey", 404, e.ObjectMissing),
        ("404", 404, e.ObjectMissing),
        ("412", 412, e.PreconditionFailed),
        ("PreconditionFailed", 412, e.PreconditionFailed),
        ("EntityTooLarge", 400, e.EntityTooLarge),
        ("QuotaExceeded", 403, e.DestinationFull),
        ("", 507, e.DestinationFull),
        ("AccessDenied", 403, e.AccessDenied),
        ("403", 403, e.AccessDenied),
        ("PermanentRedirect", 301, e.ConfigError),
        ("AuthorizationHeaderMalformed", 400, e.ConfigError),
        ("NotImplemented", 501, e.PermanentError),
        ("NotImplemented", 400, e.PermanentError),
        ("EntityTooSmall", 400, e.PartsRefused),
        ("InvalidPart", 400, e.PartsRefused),
        ("InvalidPartOrder", 400, e.PartsRefused),
        ("SomethingNew", 418, e.PermanentError),
    ],
)
def test_code_and_status(code: str, status: int, expected: type[e.AsyncSinkError]) -> None:
    error = error_from_answer("PutObject", "a/b", "tst", code, status, "The server's text.")
    assert type(error) is expected
    assert "PutObject of s3://tst/a/b failed" in str(error)
    assert "The server's text" in str(error)
    if isinstance(error, e.TransferError):
        assert (error.operation, error.code, error.status) == ("PutObject", code, status)


def test_the_message_says_what_where_and_what_to_do() -> None:
    error = error_from_answer("HeadObject", "a", "b", "403", 403, "Forbidden")
    assert str(error) == (
        "HeadObject of s3://b/a failed: HTTP 403, Forbidden. "
        "Check the rights of these credentials on the bucket and its encryption keys."
    )
    about_bucket = error_from_answer("ListObjectsV2", "", "b", "NoSuchBucket", 404, "Gone.")
    assert str(about_bucket).startswith("ListObjectsV2 of bucket b failed: NoSuchBucket (HTTP 404), Gone. Create")


def test_a_bare_400_to_a_head_may_be_a_missing_customer_key() -> None:
    error = error_from_answer("HeadObject", "a", "b", "400", 400, "Bad Request")
    assert type(error) is e.PermanentError
    assert "can only be looked at with that key (sse=…)" in str(error)
    assert "sse" not in str(error_from_answer("PutObject", "a", "b", "400", 400, "Bad Request"))


def test_a_wrong_region_names_the_right_one() -> None:
    for code, status in (("PermanentRedirect", 301), ("AuthorizationHeaderMalformed", 400), ("301", 301)):
        error = error_from_answer("PutObject", "k", "b", code, status, "", region="eu-west-3")
        assert isinstance(error, e.ConfigError)
        assert "region='eu-west-3'" in str(error)


def test_a_refused_checksum_carries_both_sides() -> None:
    error = error_from_answer("PutObject", "k", "b", "BadDigest", 400, "", expected="MD5:a", actual="c")
    assert isinstance(error, e.IntegrityError)
    assert (error.expected, error.actual) == ("MD5:a", "c")


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        (None, "", None),
        ("", "", None),
        ("7", "", 7.0),
        ("0.5", "", 0.5),
        ("-3", "", 0.0),
        ("nan", "", None),
        ("inf", "", None),
        ("soon", "", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 GMT", 30.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 -0000", None),
    ],
)
def test_retry_after(value: str | None, date: str, expected: float | None) -> None:
    assert retry_after_seconds(value, date) == expected
    error = error_from_answer("PutObject", "k", "b", "SlowDown", 503, "", value, date=date)
    assert isinstance(error, e.Throttled)
    assert error.retry_after_seconds == expected


@given(st.text(), st.sampled_from([*sorted(BY_CODE), "", "Odd\x1b[31m\nCode"]), st.integers(0, 600), st.text())
def test_nothing_a_server_says_breaks_the_line(message: str, code: str, status: int, retry_after: str) -> None:
    text = str(error_from_answer("GetObject", "k\x07ey", "b", code, status, message, retry_after))
    assert text.isprintable()
    assert len(text) < 900


def test_passwords_in_urls_are_not_repeated() -> None:
    assert one_line("cannot reach http://me:pa%20ss@proxy:3128/x") == "cannot reach http://proxy:3128/x"
    assert one_line("user@example.org wrote //a/b@c") == "user@example.org wrote //a/b@c"
