"""Running a coroutine to its end from code without an event loop, or from inside a running one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from asyncsink.errors import ConfigError

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop where the choice is ours: uvloop, or asyncio's own where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def refuse_trio() -> None:
    """Raise ConfigError where the caller's coroutine does not run on asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "asyncsink runs on asyncio (its S3 client is asyncio's); run it with asyncio, not with trio."
        ) from None


def run_to_end(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` in a loop of its own and return its result.

    Inside a running loop (Jupyter's, or trio's), it has a thread of its own, and that loop waits, blocked as by any
    synchronous call.
    KeyboardInterrupt cancels `main`, waits until it has cleaned up, and is raised.
    """
    if _inside_a_loop():
        return _run_beside(main)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main())


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _inside_trio()
    return True


def _inside_trio() -> bool:
    # A loop of ours in trio's own thread would be taken for trio by everything that asks where it runs.
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _run_beside(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []
    cancel: list[Callable[[], object]] = []
    started = threading.Event()

    async def supervised() -> T:
        work = asyncio.ensure_future(main())
        loop = asyncio.get_running_loop()
        cancel.append(lambda: loop.call_soon_threadsafe(work.cancel))
        started.set()
        return await work

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                results.append(runner.run(supervised()))
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits, which raises it
            errors.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=body, name="asyncsink", daemon=True)
    thread.start()
    started.wait()
    try:
        thread.join()
    except KeyboardInterrupt:
        if cancel:
            cancel[0]()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
