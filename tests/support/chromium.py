"""A headless Chromium, driven by its own protocol (Chrome DevTools Protocol) over a WebSocket."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from anyio.abc import Process

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers of CI have no user namespaces
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def executable() -> str:
    """Chromium's path, or ""."""
    return next(filter(None, map(shutil.which, NAMES)), "")


class Tab:
    """One tab: the page that is open, what it asked for, and what its console has said.

    Attributes:
        requests: URLs that were asked for, the page's own among them.
        messages: of the console, and errors that nothing caught.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._loaded = False
        self.requests: list[str] = []
        self.messages: list[str] = []

    async def send(self, method: str, **parameters: Any) -> Any:
        """Send a command, and return its result."""
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = await self._next()
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    async def _next(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((await self._socket.receive(timeout=START_SECONDS)).data)
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.messages.append(json.dumps(said["params"]))
            case "Page.loadEventFired":
                self._loaded = True
        return said

    async def open(self, page: Path, *, width: int, height: int, dark: bool = False, script: bool = True) -> None:
        """Open a file in a window of this size, and wait until it is loaded."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Log.clear")
        await self.send("Emulation.setScriptExecutionDisabled", value=not script)
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.requests.clear()
        self.messages.clear()
        await self.send("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            await self._next()

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def screenshot(self, **clip: Any) -> bytes:
        """A PNG of the window, or of `clip` (x, y, width, height) of the page."""
        more = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True} if clip else {}
        return base64.b64decode((await self.send("Page.captureScreenshot", format="png", **more))["data"])

    async def printed(self) -> bytes:
        """The page as a PDF, as a printer gets it."""
        return base64.b64decode((await self.send("Page.printToPDF", preferCSSPageSize=True))["data"])


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Start Chromium, with a tab; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="asyncsink-chromium-", ignore_cleanup_errors=True) as profile:
        command = [executable(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            port = await _port(process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = await answer.json()
                address = next(each["webSocketDebuggerUrl"] for each in tabs if each["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            with anyio.CancelScope(shield=True):
                process.terminate()
                await process.aclose()


async def _port(process: Process) -> int:
    """The port of the protocol, which Chromium tells on stderr."""
    said = ""
    assert process.stderr is not None
    with anyio.fail_after(START_SECONDS):
        async for some in process.stderr:
            said += some.decode(errors="replace")
            if found := re.search(r"ws://127\.0\.0\.1:(\d+)/", said):
                return int(found[1])
    raise AssertionError(f"Chromium has ended: {said}")
