"""The service: FastAPI, which streams each upload to S3 by one of three libraries. Nothing is written to disk.

python -m benchmarks.service.app LIBRARY BUCKET DESCRIPTOR

DESCRIPTOR is a listening socket. The S3 server and its keys come from the environment. On SIGTERM the service takes no
further upload, waits `GRACE_SECONDS` for those under way, and then `CLOSE_SECONDS` for its library.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, HTTPException, Request

PUT_SECONDS: Final = 60.0
"""Longest time of one upload to S3."""
GRACE_SECONDS: Final = 5
CLOSE_SECONDS: Final = 5.0

Put = Callable[[str, AsyncIterator[bytes], int], Awaitable[None]]
"""Uploads a stream of a known length under a name; returns when the library says that the object is there."""


@asynccontextmanager
async def with_asyncsink(bucket: str) -> AsyncIterator[Put]:
    """One sink; each object's checksum is compared with the server's before the client is answered."""
    import asyncsink

    sink = asyncsink.AsyncSink(f"s3://{bucket}", journal=False, overwrite="always", on_collision="last")
    await sink.start()

    async def put(name: str, stream: AsyncIterator[bytes], size_bytes: int) -> None:
        async with asyncio.timeout(PUT_SECONDS):
            await sink.put_stream(name, stream, size_bytes=size_bytes)

    try:
        yield put
    finally:
        await sink.close(deadline_seconds=CLOSE_SECONDS)


@asynccontextmanager
async def with_obstore(bucket: str) -> AsyncIterator[Put]:
    """One store."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})

    async def put(name: str, stream: AsyncIterator[bytes], _size_bytes: int) -> None:
        async with asyncio.timeout(PUT_SECONDS):
            await obstore.put_async(store, name, stream)

    yield put


@asynccontextmanager
async def with_aioboto3(bucket: str) -> AsyncIterator[Put]:
    """One client."""
    import aioboto3

    async with aioboto3.Session().client("s3") as client:

        async def put(name: str, stream: AsyncIterator[bytes], _size_bytes: int) -> None:
            async with asyncio.timeout(PUT_SECONDS):
                await client.upload_fileobj(_Reader(stream), bucket, name)

        yield put


class _Reader:
    """An asynchronous file object over a stream, as `upload_fileobj` takes it."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._left = bytearray()

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer at the end only."""
        while size < 0 or len(self._left) < size:
            piece = await anext(self._stream, None)
            if piece is None:
                break
            self._left += piece
        end = len(self._left) if size < 0 else size
        given = bytes(self._left[:end])
        del self._left[:end]
        return given


LIBRARIES: Final[dict[str, Callable[[str], AbstractAsyncContextManager[Put]]]] = {
    "asyncsink": with_asyncsink,
    "obstore": with_obstore,
    "aioboto3": with_aioboto3,
}


def make_app(library: str, bucket: str) -> FastAPI:
    """PUT /NAME with a Content-Length streams its body to s3://BUCKET/NAME, and answers 201 when it is there."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with LIBRARIES[library](bucket) as app.state.put:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.put("/{name:path}", status_code=201)
    async def upload(name: str, request: Request) -> dict[str, Any]:
        size_bytes = int(request.headers["content-length"])
        try:
            await request.app.state.put(name, request.stream(), size_bytes)
        except Exception as error:
            raise HTTPException(502, f"{type(error).__name__}: {error}"[:300]) from error
        return {"name": name}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    library, bucket, descriptor = sys.argv[1:]
    config = uvicorn.Config(
        make_app(library, bucket),
        fd=int(descriptor),
        log_level="error",
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=120,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
