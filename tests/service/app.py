"""A service that publishes what it is sent: uploads stream to S3, receipts stream out, and its end is bounded.

app = make_app("s3://mybucket/scans")
await Service(uvicorn.Config(app, timeout_graceful_shutdown=5)).serve()

curl -T sub-01_bold.nii.gz http://127.0.0.1:8000/scans/sub-01/sub-01_bold.nii.gz
curl -N http://127.0.0.1:8000/receipts
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any
from weakref import WeakSet

import uvicorn
from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.responses import StreamingResponse

import asyncsink

CLOSE_SECONDS = 10  # of the 30 that Kubernetes gives: 5 are for requests before, and 10 for the clean-up after

log = logging.getLogger("scans")
Name = Annotated[str, Path(pattern=r"^\w[\w.+-]*$")]


def make_app(destination: str, **options: Any) -> FastAPI:
    """The service's routes around one AsyncSink, which is `app.state.sink` while the service runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sink = app.state.sink = await asyncsink.AsyncSink(destination, **options).start()
        yield
        report = await sink.close(deadline_seconds=CLOSE_SECONDS)
        for each in report.unfinished:
            log.error("%s was not published (%s)", each.key, each.state)

    app = FastAPI(lifespan=lifespan)
    app.state.readers = WeakSet()
    app.state.leaving = False

    @app.put("/scans/{subject}/{name}", status_code=201)
    async def upload(subject: Name, name: Name, request: Request) -> dict[str, Any]:
        """Answers when the object is on S3 and checked, with its receipt."""
        md5 = request.headers.get("content-md5")
        try:
            checksum = asyncsink.Checksum("MD5", md5) if md5 else None
            outcome = await app.state.sink.put_stream(f"{subject}/{name}", request.stream(), checksum=checksum)
        except asyncsink.ConfigError as error:
            raise HTTPException(422, str(error)) from error
        except (asyncsink.SourceError, asyncsink.IntegrityError) as error:
            raise HTTPException(400, str(error)) from error  # the upload broke off, or is not what Content-MD5 says
        except asyncsink.AsyncSinkError as error:
            raise HTTPException(502, str(error)) from error
        return asdict(outcome)

    @app.get("/receipts")
    async def receipts() -> StreamingResponse:
        """Every outcome from now on, one JSON object per line, until the service shuts down."""
        if app.state.leaving:
            raise HTTPException(503, "The service is shutting down.")
        events = app.state.sink.events()
        app.state.readers.add(events)

        async def lines() -> AsyncIterator[str]:
            async for event in events:
                if isinstance(event, asyncsink.Finished):
                    yield json.dumps(asdict(event.outcome)) + "\n"

        return StreamingResponse(lines(), media_type="application/jsonl")

    return app


class Service(uvicorn.Server):
    """Uvicorn, which ends the streams of receipts before it waits for its responses, and the sink after them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let uploads end, leave the lifespan: the sink drains."""
        state = self.config.app.state
        state.leaving = True
        for events in tuple(state.readers):
            await events.aclose()
        await super().shutdown(sockets)
