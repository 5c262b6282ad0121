"""A command that must keep running: started, watched, restarted, and never left behind.

It knows nothing of the command but its words and how to ask whether it is ready.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence

from ssjf.errors import BackendError

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 10.0
_STEADY_S = 30.0  # a child that ran this long is restarted without delay


class SupervisedChild:
    """One child process.

    Args:
        command: program and arguments.
        ready: asks the child whether it takes requests.
        start_timeout_s: how long it may take to become ready.
        on_restart: called each time the child was started again.

    Attributes:
        state: ``starting``, ``ready``, ``restarting`` or ``stopped``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: Callable[[], Awaitable[bool]],
        start_timeout_s: float = 120.0,
        on_restart: Callable[[], None],
    ) -> None:
        self._command = list(command)
        self._ready = ready
        self._start_timeout_s = start_timeout_s
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.state = "stopped"

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            BackendError: it ended, or took too long.
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

    async def _launch(self) -> None:
        # a session of its own: Ctrl-C in a terminal reaches us alone, and we decide when the child ends
        self._process = await asyncio.create_subprocess_exec(*self._command, start_new_session=True)
        ended = asyncio.create_task(self._process.wait())
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while not await self._ready():
                    await asyncio.wait({ended}, timeout=_POLL_S)
                    if ended.done():
                        raise BackendError(f"the engine ended with exit code {ended.result()} before it was ready")
        except TimeoutError:
            await self._terminate(0.0)
            raise BackendError(f"the engine was not ready within {self._start_timeout_s:g} s") from None
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
            steady = loop.time() - began > _STEADY_S
            backoff_s = _FIRST_BACKOFF_S if steady else min(2 * backoff_s, _LAST_BACKOFF_S)
            _log.error("the engine ended with exit code %s; starting it again", code)
            if not steady:
                await asyncio.sleep(backoff_s)
            with contextlib.suppress(BackendError):
                await self._launch()
            self._on_restart()

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
