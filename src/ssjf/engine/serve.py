"""The engine's process: from settings to a listening server, and to its end.

Readiness: the address is bound first, so that a busy port is found out at once, but connections are accepted only when
the model is loaded; who can connect finds a working engine. The end: SIGTERM or SIGINT lets running requests finish
while new ones get a 503, a second signal ends at once, and an engine fault ends with exit code 1, for the supervisor
to start a new one.

This module does not know what is in a request.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ssjf.engine.models import KV_BLOCK_TOKENS, find_model, plan_cache
from ssjf.engine.params import PromptTokenizer
from ssjf.engine.pipeline import Pipeline, load
from ssjf.engine.server import Service, create_app
from ssjf.engine.worker import Engine
from ssjf.errors import ConfigError

_FLUSH_S = 5  # for the last bytes of responses, once every request is done
_PARENT_CHECK_S = 1.0
_PARENT_PID = os.getppid()  # as early as possible: the parent may be gone by the time that the model is loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How to serve a model.

    Attributes:
        model: a GGUF file, an OpenVINO IR folder or a hub id of one.
        served_model_name: how clients call it; None for the file's name.
        max_num_seqs: sequences that run at once.
        max_model_len: tokens of prompt and answer together; None for as many as model and cache allow.
        kv_cache_gib: memory that the KV cache may take.
        num_threads: of inference; None for half of the CPUs, as gateway and clients need some too.
        host: address to listen on.
        port: to listen on; 0 for any that is free.
        uds: path of a Unix socket to listen on instead, which only this user may open.
        drain_s: seconds that running requests get to finish after SIGTERM.
        exit_with_parent: end when the process that started this one does.
    """

    model: str
    served_model_name: str | None = None
    max_num_seqs: int = 8
    max_model_len: int | None = None
    kv_cache_gib: float = 1.0
    num_threads: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    drain_s: float = 30.0
    exit_with_parent: bool = False


def serve(settings: EngineSettings) -> None:
    """Load a model and serve it until a signal ends the process.

    Raises:
        UserError: model, address or settings cannot work.
        BackendError: the engine failed while it served.
    """
    files = find_model(settings.model)
    plan = plan_cache(
        files,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_gib=settings.kv_cache_gib,
        max_model_len=settings.max_model_len,
    )
    num_threads = settings.num_threads or max(1, _num_cpus() // 2)
    with listening_socket(settings) as (sock, address):
        pipeline, tokenizer = load(files, plan, max_num_seqs=settings.max_num_seqs, num_threads=num_threads)
        name = settings.served_model_name or files.name

        def announce() -> None:
            cache = plan.num_kv_blocks * KV_BLOCK_TOKENS * files.kv_bytes_per_token / 2**20
            print(  # noqa: T201 - a person, or the supervisor's log, wants to see it
                f"ssjf engine: {name} on {address} ({settings.max_num_seqs} at a time, context {plan.max_model_len}, "
                f"KV cache up to {cache:.0f} MiB, threads {num_threads})",
                file=sys.stderr,
                flush=True,
            )

        serve_pipeline(
            pipeline,
            tokenizer,
            settings,
            sock,
            model_name=name,
            max_model_len=plan.max_model_len,
            on_started=announce,
        )


def serve_pipeline(
    pipeline: Pipeline,
    tokenizer: PromptTokenizer,
    settings: EngineSettings,
    sock: socket.socket,
    *,
    model_name: str,
    max_model_len: int,
    on_started: Callable[[], None],
) -> None:
    """Serve a loaded model on a bound socket until a signal ends the process.

    Raises:
        BackendError: the engine failed.
    """

    async def run() -> None:
        ending = asyncio.Event()
        engine = Engine(pipeline, max_num_seqs=settings.max_num_seqs, on_fault=ending.set)
        service = Service(engine, tokenizer, model_name=model_name, max_model_len=max_model_len)
        server = _Server(service, on_started=on_started)
        tasks = [asyncio.create_task(_end(service, server, ending, settings.drain_s))]
        if settings.exit_with_parent:
            tasks.append(asyncio.create_task(_watch_parent(ending)))
        with _signals(ending):
            await server.serve(sockets=[sock])
        for task in tasks:
            task.cancel()
        if engine.fault is not None:
            raise engine.fault

    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(run())


@contextlib.contextmanager
def listening_socket(settings: EngineSettings) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, not yet accepting, and its address for people.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    path = settings.uds
    target: str | tuple[str, int]
    if path is not None:
        family, target, where = socket.AF_UNIX, str(path), f"unix:{path}"
    else:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        target, where = (settings.host, settings.port), f"{settings.host}:{settings.port}"
    with socket.socket(family) as sock:
        mask = os.umask(0o177)  # a Unix socket is for this user only, from its first moment
        try:
            if path is not None:
                _remove_stale(path)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(target)
        except OSError as error:
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from None
        finally:
            os.umask(mask)
        try:
            yield sock, where if path is not None else _url(sock)
        finally:
            if path is not None:
                path.unlink(missing_ok=True)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _remove_stale(path: Path) -> None:
    """Remove a socket that a process which is gone has left.

    Raises:
        OSError: somebody listens on it.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError("another process listens on it")


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: it would close the port at once, and clients should get a 503."""

    def __init__(self, service: Service, *, on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            create_app(service),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_FLUSH_S,
        )
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


@contextlib.contextmanager
def _signals(ending: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `ending`; the second one ends the process as if it had never been handled."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if ending.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        ending.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def _end(service: Service, server: _Server, ending: asyncio.Event, drain_s: float) -> None:
    """Once `ending` is set: take nothing new, let running requests finish, then end the server."""
    await ending.wait()
    service.draining = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(service.engine.drained(), drain_s)
    await service.engine.close()
    server.should_exit = True


async def _watch_parent(ending: asyncio.Event) -> None:
    while os.getppid() == _PARENT_PID:  # noqa: ASYNC110 - nobody tells a process that its parent is gone
        await asyncio.sleep(_PARENT_CHECK_S)
    ending.set()


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _new_event_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 - not there on Windows

    return uvloop.new_event_loop()
