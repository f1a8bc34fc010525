"""Asks an S3 server for its buckets with nothing but the standard library: proof that it is up and is ours.

Only the server that was started with these credentials answers a signed request with 200, so a stranger on the same
port is never taken for it. (SigV4: AWS General Reference, "Signature Version 4 signing process"; ListBuckets: S3 API.)
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import re
from datetime import UTC, datetime

_REGION, _SERVICE = "us-east-1", "s3"
_ANSWER_SECONDS = 5.0
_BUCKET_NAME = re.compile(rb"<Bucket>.*?<Name>([^<]*)</Name>", re.DOTALL)


def buckets_of(port: int, access_key_id: str, secret_access_key: str) -> set[str] | None:
    """The buckets of the S3 server on 127.0.0.1:`port`, or None while there is none that knows the credentials.

    Blocking, for five seconds at most.
    """
    headers = _signed_headers(f"127.0.0.1:{port}", access_key_id, secret_access_key)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        return None  # not listening yet, or not speaking HTTP yet
    finally:
        connection.close()
    return {name.decode() for name in _BUCKET_NAME.findall(body)} if answer.status == 200 else None


def _signed_headers(host: str, access_key_id: str, secret_access_key: str) -> dict[str, str]:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    payload = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": moment}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"GET\n/\n\n{lines}\n{names}\n{payload}"
    scope = f"{moment[:8]}/{_REGION}/{_SERVICE}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + secret_access_key.encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}"
    return {**headers, "authorization": f"{credential}, SignedHeaders={names}, Signature={signature}"}
