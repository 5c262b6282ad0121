"""Running the gateway: from settings to a listening server, and from SIGTERM to exit code 0."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from ssjf.config import BackendSettings, ServeSettings
from ssjf.core.places.servers import Servers
from ssjf.core.priority import sortable
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Policy
from ssjf.errors import ConfigError
from ssjf.forecast import Forecaster
from ssjf.gateway.backends.pool import Pool, make_member
from ssjf.gateway.child import SupervisedChild
from ssjf.gateway.dashboard.recorder import Recorder
from ssjf.gateway.dashboard.routes import routes
from ssjf.gateway.dispatcher import Dispatcher
from ssjf.gateway.http.answer import Patience
from ssjf.gateway.http.app import make_app
from ssjf.gateway.http.endpoint import Gateway
from ssjf.gateway.http.server import Limits, Server, connections_allowed
from ssjf.gateway.journal.keeping import Keeper, log_to, recall
from ssjf.gateway.journal.store import Journal
from ssjf.gateway.keys import Keys
from ssjf.gateway.logs import log_outcome
from ssjf.gateway.shadow import Estimate, Shadow
from ssjf.gateway.telemetry import Telemetry
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_LOOK_S = 0.1  # between two looks for answers that somebody keeps waiting too long

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
        ConfigError: the address cannot be listened on, or the backend's URL is no such thing.
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
        engines = settings.engines()
        if engine_command is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ssjf-"))
            uds = Path(folder) / "engine.sock"
            engines = [BackendSettings(url=f"unix:{uds}", name="embedded")]
        pool = make_pool(settings, engines, supervised=engine_command is not None)
        telemetry.watch_pool(pool)
        journal = None
        if settings.log is not None:
            journal = make_journal(settings.log, settings)
            stack.callback(journal.close)
            telemetry.watch_journal(journal)
            recall(journal, predictor, settings.predictor)
        forecaster = Forecaster(predictor, budget_s=settings.predict_budget_ms / 1000, on_failure=telemetry.fallback)
        stack.push_async_callback(forecaster.close)
        ordered_there = {member.server: member for member in pool.members if member.mode == "priority"}

        def make_scheduler(servers: Servers) -> Scheduler:
            chosen = policy()
            if any(server in ordered_there for server in servers.servers):
                chosen = sortable(chosen)
            return Scheduler(
                chosen,
                servers,
                max_wait_s=settings.max_wait_s,
                tenant_weights=_weights(settings),
            )

        on_estimate: list[Callable[[Estimate], None]] = [telemetry.shadow]
        comparison = None
        if shadow is not None:
            comparison = make_shadow(settings, pool, policy, shadow, on_estimate)
            stack.push_async_callback(comparison.close)
        dispatcher = Dispatcher(
            make_scheduler,
            forecaster,
            telemetry,
            comparison,
            serves_higher_first=lambda server: ordered_there[server].dialect.priority == "higher",
            ordered_there=ordered_there,
            max_live={name: tenant.max_live for name, tenant in settings.tenants.items() if tenant.max_live},
            max_waiting=settings.max_waiting,
            max_waiting_bytes=settings.max_waiting_mb * 2**20,
            max_wait_s=settings.max_wait_s,
        )
        dispatcher.listeners.append(log_outcome)
        if journal is not None:
            dispatcher.listeners.append(log_to(journal, settings.policy))
            await stack.enter_async_context(Keeper(journal, forecaster, settings.predictor))
        pool.follow(dispatcher.pump, dispatcher.has_backlog, dispatcher.progress)
        stack.push_async_callback(pool.close)
        await pool.start()
        child = None
        if engine_command is not None:
            child = _supervised(engine_command(uds), pool, telemetry)
            stack.push_async_callback(child.stop)
            await child.start()
            await pool.meet(pool.members[0])
        recorder = Recorder(
            dispatcher, pool, policy=policy, policy_name=settings.policy, max_wait_s=settings.max_wait_s
        )
        stack.push_async_callback(recorder.close)
        on_estimate.append(recorder.shadow)
        keys = make_keys(settings)
        gateway = Gateway(
            dispatcher=dispatcher,
            pool=pool,
            telemetry=telemetry,
            keys=keys,
            pages=routes(recorder, keys),
            patience=Patience(settings.first_token_timeout_s, settings.stall_timeout_s, settings.total_timeout_s),
            child=child,
            ignore_max_tokens=settings.ignore_max_tokens,
            max_body_bytes=int(settings.max_body_mb * 2**20),
            max_arriving_bytes=int(settings.max_waiting_mb * 2**20),
        )
        looking = asyncio.create_task(_look(gateway))
        stack.callback(looking.cancel)
        yield gateway


def _supervised(command: Sequence[str], pool: Pool, telemetry: Telemetry) -> SupervisedChild:
    """The embedded engine, which the pool closes while it is down."""
    (member,) = pool.members

    def is_back() -> None:
        telemetry.engine_restarted()
        pool.reopen(member)

    return SupervisedChild(
        command,
        ready=member.http.healthy,
        on_down=lambda: pool.shut(member),
        on_up=is_back,
        on_failure=lambda: pool.unstartable(member),
    )


def make_pool(settings: ServeSettings, engines: Sequence[BackendSettings], *, supervised: bool = False) -> Pool:
    """The engines of the settings.

    Raises:
        ConfigError: a backend's URL is none, or two have the same name.
    """
    members = [
        make_member(
            engine,
            slots=settings.slots,
            mode=settings.mode,
            connect_timeout_s=settings.connect_timeout_s,
            max_in_flight=settings.max_waiting,
            supervised=supervised,
        )
        for engine in engines
    ]
    names = [member.name for member in members]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two backends are called {name!r}; give them a name each, or one of them twice the slots"
            )
    return Pool(members)


def make_shadow(
    settings: ServeSettings,
    pool: Pool,
    policy: Callable[[], Policy],
    shadow: Callable[[], Policy],
    listeners: Sequence[Callable[[Estimate], None]],
) -> Shadow:
    """What compares the policy in force with another one, and tells the listeners."""
    return Shadow(
        policy,
        shadow,
        num_slots=lambda: max(sum(member.server.slots for member in pool.members), 1),
        max_wait_s=settings.max_wait_s,
        report=lambda estimate: [tell(estimate) for tell in listeners],
    )


def make_journal(path: Path, settings: ServeSettings) -> Journal:
    """The request log of the settings.

    Raises:
        ConfigError: the file cannot be one.
    """
    return Journal(
        path,
        max_rows=settings.log_max_rows,
        max_bytes=settings.log_max_mb * 2**20,
        keep_prompts=settings.log_prompts,
    )


def make_keys(settings: ServeSettings) -> Keys:
    """Who may come in by the settings."""
    return Keys(
        settings.keys,
        tenant_header=settings.tenant_header,
        accept_hints=settings.accept_hints,
        open_admin=settings.listens_to_itself or settings.admin_without_key,
    )


def _weights(settings: ServeSettings) -> dict[str, float] | None:
    if not settings.fair:
        return None
    return {name: tenant.weight for name, tenant in settings.tenants.items()}


async def _look(gateway: Gateway) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        gateway.look()


async def _serve(
    settings: ServeSettings,
    *,
    policy: Callable[[], Policy],
    shadow: Callable[[], Policy] | None,
    predictor: Predictor,
    engine_command: EngineCommand | None,
) -> int:
    with _listening_socket(settings) as sock, _Signals() as signals:
        async with running_gateway(
            settings, policy=policy, shadow=shadow, predictor=predictor, engine_command=engine_command
        ) as gateway:
            server = Server(make_app(gateway), Limits(connections=connections_allowed()))
            signals.on_first(lambda: asyncio.create_task(_drain(gateway, server, settings.drain_s)))
            await server.serve(sockets=[sock])
    return 0


@contextlib.contextmanager
def _listening_socket(settings: ServeSettings) -> Iterator[socket.socket]:
    """A bound socket, before anything slow is started; connections are accepted only when everything is.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
                "choose another --host or --port"
            ) from None
        yield sock


class _Signals:
    """SIGTERM and SIGINT, while the block lasts: the first is handled, the second ends the process at once.

    Until `on_first` says what is to be done, the first one cancels the block, and that counts as a proper end.
    """

    _HANDLED = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._action: Callable[[], object] = task.cancel
        self._seen = False
        self._starting = True
        for number in self._HANDLED:
            self._loop.add_signal_handler(number, self._handle, number)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number in self._HANDLED:
            self._loop.remove_signal_handler(number)
        return kind is asyncio.CancelledError and self._seen and self._starting

    def on_first(self, action: Callable[[], object]) -> None:
        """Called, once, at the first signal from now on."""
        self._action = action
        self._starting = False

    def _handle(self, number: signal.Signals) -> None:
        if self._seen:
            _log.warning("second %s: ending at once", number.name)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._seen = True
        self._under_way = self._action()  # a task that nobody refers to may be collected before it is done


async def _drain(gateway: Gateway, server: Server, drain_s: float) -> None:
    """Take nothing new, let what was accepted finish, then end the server."""
    gateway.draining = True
    dispatcher = gateway.dispatcher
    _log.info("draining: %d requests to finish, at most %g s", dispatcher.num_live, drain_s)
    try:
        async with asyncio.timeout(drain_s):
            await gateway.wait_until_idle()
    except TimeoutError:
        _log.warning("%d requests did not finish in time", dispatcher.num_live)
        gateway.give_up()
    server.should_exit = True
