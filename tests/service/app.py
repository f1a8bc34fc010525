"""A service that publishes what it is sent: uploads stream in, receipts stream out, shutdown drains.

app = make_app("s3://mybucket/scans")
await Service(uvicorn.Config(app)).serve()

curl -T sub-01_bold.nii.gz http://127.0.0.1:8000/scans/sub-01/sub-01_bold.nii.gz
curl -N http://127.0.0.1:8000/receipts
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any
from weakref import WeakSet

import aiofiles
import aiofiles.tempfile
import uvicorn
from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

import asyncsink

Name = Annotated[str, Path(pattern=r"^\w[\w.+-]*$")]


def make_app(destination: str, **options: Any) -> FastAPI:
    """The service's routes around one AsyncSink, which is `app.state.sink` while the service runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # A name that is uploaded again replaces the object: every upload comes from a temporary file of its own.
        async with asyncsink.AsyncSink(destination, on_collision="last", **options) as sink:
            app.state.sink = sink
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.readers = WeakSet()
    app.state.leaving = False

    @app.put("/scans/{subject}/{name}", status_code=201)
    async def upload(subject: Name, name: Name, request: Request) -> dict[str, Any]:
        """Answers when the file is on S3 and checked, with its receipt."""
        async with aiofiles.tempfile.TemporaryDirectory() as spool:
            path = os.path.join(spool, name)
            try:
                async with aiofiles.open(path, "wb") as file:
                    async for data in request.stream():
                        await file.write(data)
                return asdict(await app.state.sink.put(subject, path, key=f"{subject}/{name}"))
            except ClientDisconnect as error:
                raise HTTPException(400, "The upload broke off; send it again.") from error
            except asyncsink.ConfigError as error:
                raise HTTPException(422, str(error)) from error
            except asyncsink.AsyncSinkError as error:
                raise HTTPException(502, str(error)) from error

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
