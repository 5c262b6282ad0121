"""A command that must keep running: started, watched, restarted, and never left behind.

It knows nothing of the command but its words and how to ask whether it is ready.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence

from ssjf.errors import BackendError

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 10.0
_STEADY_S = 30.0  # a child that ran this long is restarted without delay

# Run by a Python of its own which then becomes the command: Linux kills the child when we are gone, however we went.
# Between fork and exec this could not be done safely in a process that has threads.
_TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this one is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class SupervisedChild:
    """One child process.

    Args:
        command: program and arguments.
        ready: asks the child whether it takes requests.
        on_down: called when the child has ended by itself.
        on_up: called when it was started again and is ready.
        on_failure: called when it could not be started again, or ended before it was ready; the next attempt follows.

    Attributes:
        state: ``starting``, ``ready``, ``restarting`` or ``stopped``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: Callable[[], Awaitable[bool]],
        on_down: Callable[[], None],
        on_up: Callable[[], None],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = list(command)
        if sys.platform == "linux":
            self._command = [sys.executable, "-c", _TETHER, str(os.getpid()), *command]
        self._ready = ready
        self._on_down = on_down
        self._on_up = on_up
        self._on_failure = on_failure
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.state = "stopped"

    async def start(self) -> None:
        """Start it and wait until it is ready; a model may take its time to load, so there is no limit.

        Raises:
            BackendError: it cannot be started, or ended before it was ready.
        """
        self.state = "starting"
        await self._launch()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """Ask it to end, and end it if it does not."""
        self.state = "stopped"
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._terminate(grace_s)

    async def ends_within(self, seconds: float) -> bool:
        """Whether the child is down, or goes down in this time: a refused connection is noticed sooner than an exit."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    async def _launch(self) -> None:
        try:
            # a session of its own: Ctrl-C in a terminal reaches us alone, and we decide when the child ends
            self._process = await asyncio.create_subprocess_exec(*self._command, start_new_session=True)
        except OSError as error:
            raise BackendError(f"the engine cannot be started: {error.strerror or error}") from None
        ended = asyncio.create_task(self._process.wait())
        try:
            while not await self._ready():
                await asyncio.wait({ended}, timeout=_POLL_S)
                if ended.done():
                    raise BackendError(f"the engine ended with exit code {ended.result()} before it was ready")
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        self.state = "ready"

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = _FIRST_BACKOFF_S
        while True:
            began = loop.time()
            assert self._process is not None
            code = await self._process.wait()
            self.state = "restarting"
            self._ended.set()
            self._on_down()
            _log.error("the engine ended with exit code %s; starting it again", code)
            if loop.time() - began > _STEADY_S:
                backoff_s = _FIRST_BACKOFF_S
            else:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)
            try:
                await self._launch()
            except BackendError:
                self._on_failure()
                continue  # it has ended again, which the next round finds at once
            self._ended.clear()
            self._on_up()

    async def _terminate(self, grace_s: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
