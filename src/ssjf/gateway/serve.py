"""Running the gateway: from settings to a listening server, and from SIGTERM to exit code 0."""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
import types
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import uvicorn

from ssjf.config import ServeSettings
from ssjf.core.capacity import Slots
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Policy
from ssjf.gateway.app import Gateway, make_app
from ssjf.gateway.backend import HTTPBackend
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dispatcher import Dispatcher
from ssjf.gateway.forecast import Forecaster
from ssjf.gateway.shadow import Shadow
from ssjf.gateway.telemetry import Telemetry
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)

EngineCommand = Callable[[Path], Sequence[str]]
"""The command line of the embedded engine, given the socket that it is to listen on."""


def serve(
    settings: ServeSettings,
    *,
    policy: Callable[[], Policy],
    shadow: Callable[[], Policy] | None,
    predictor: Predictor,
    engine_command: EngineCommand | None,
) -> int:
    """Serve until told to stop; returns the exit code.

    Args:
        settings: all of them.
        policy: builds the policy in force.
        shadow: builds the policy to compare with, if any.
        predictor: guesses lengths.
        engine_command: starts the embedded engine; None where `settings.backend` names another.

    Raises:
        BackendError: the embedded engine did not start.
    """
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(
            _serve(settings, policy=policy, shadow=shadow, predictor=predictor, engine_command=engine_command)
        )


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not to be had on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextlib.asynccontextmanager
async def running_gateway(
    settings: ServeSettings,
    *,
    policy: Callable[[], Policy],
    shadow: Callable[[], Policy] | None,
    predictor: Predictor,
    engine_command: EngineCommand | None,
) -> AsyncIterator[Gateway]:
    """Everything behind the HTTP side, started; stopped again on leaving.

    Raises:
        BackendError: the embedded engine did not start.
        ConfigError: the backend's URL is no such thing.
    """
    async with contextlib.AsyncExitStack() as stack:
        telemetry = Telemetry()
        url = settings.backend
        if url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ssjf-"))
            socket = Path(folder) / "engine.sock"
            url = f"unix:{socket}"
        backend = HTTPBackend(url)
        await backend.open()
        stack.push_async_callback(backend.close)
        child = None
        if engine_command is not None:
            child = SupervisedChild(
                engine_command(socket), ready=backend.healthy, on_restart=telemetry.engine_restarted
            )
            stack.push_async_callback(child.stop)
            await child.start()
        forecaster = Forecaster(predictor, budget_s=settings.predict_budget_ms / 1000, on_failure=telemetry.fallback)
        stack.push_async_callback(forecaster.close)
        comparison = None
        if shadow is not None:
            comparison = Shadow(policy, shadow, num_slots=settings.slots, report=telemetry.shadow)
            stack.push_async_callback(comparison.close)
        scheduler = Scheduler(
            policy(), Slots(settings.slots), max_waiting=settings.max_waiting, max_wait_s=settings.max_wait_s
        )
        yield Gateway(
            dispatcher=Dispatcher(scheduler, forecaster, telemetry, comparison),
            backend=backend,
            telemetry=telemetry,
            engine_state=None if child is None else lambda: child.state,
            accept_hints=settings.accept_hints,
            ignore_max_tokens=settings.ignore_max_tokens,
            max_body_bytes=int(settings.max_body_mb * 2**20),
        )


async def _serve(
    settings: ServeSettings,
    *,
    policy: Callable[[], Policy],
    shadow: Callable[[], Policy] | None,
    predictor: Predictor,
    engine_command: EngineCommand | None,
) -> int:
    async with running_gateway(
        settings, policy=policy, shadow=shadow, predictor=predictor, engine_command=engine_command
    ) as gateway:
        config = uvicorn.Config(
            make_app(gateway),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,  # the engine's own headers pass through
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        server = _DrainingServer(config, gateway, drain_s=settings.drain_s)
        await server.serve()
        return 0 if server.started else 1


class _DrainingServer(uvicorn.Server):
    """Finishes what was accepted before it ends; a second signal ends at once."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, *, drain_s: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_s = drain_s
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            _log.info("listening on http://%s:%d", host, port)

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        """Begin to drain at the first signal; at the second, end at once.

        uvicorn would raise the signal again after it stopped; not remembering it makes the exit code ours.
        """
        if self._gateway.draining:
            _log.warning("second %s: ending at once", signal.Signals(sig).name)
            os._exit(1)
        self._gateway.draining = True
        # called from Python's signal handler, in the thread of the event loop but outside its callbacks
        asyncio.get_event_loop().call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._drain = asyncio.get_running_loop().create_task(self._drain_then_exit())

    async def _drain_then_exit(self) -> None:
        dispatcher = self._gateway.dispatcher
        _log.info("draining: %d requests to finish, at most %g s", dispatcher.num_live, self._drain_s)
        try:
            async with asyncio.timeout(self._drain_s):
                await dispatcher.wait_until_idle()
        except TimeoutError:
            _log.warning("%d requests did not finish in time", dispatcher.num_live)
        self.should_exit = True
