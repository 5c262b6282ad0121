"""What kinds of engine there are, and how each is recognised, counted and told a priority.

An engine shows its kind by the names on its /metrics page, or by a page that only it has. None has to: an engine of
unknown kind is served as well, with less known of it. This module does not know how often to ask.
"""

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ssjf.errors import BackendError
from ssjf.gateway.backends.http import HTTPBackend


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of engine.

    Attributes:
        name: for people.
        prefix: of its metrics' names; "" where it has none.
        running: metric of the requests that it works on.
        queued: metric of the requests in its own queue.
        limit: metric of how many it works on at once.
        priority: which priorities it serves first, if it has any.
        any_model: it may take requests for models that it does not list.
    """

    name: str
    prefix: str = ""
    running: str = ""
    queued: str = ""
    limit: str = ""
    priority: Literal["lower", "higher"] | None = None
    any_model: bool = False


UNKNOWN = Dialect("unknown", any_model=True)
OLLAMA = Dialect("Ollama", any_model=True)  # serves "llama3" as "llama3:latest"
LLAMA_CPP = Dialect(
    "llama.cpp",
    prefix="llamacpp:",
    running="llamacpp:requests_processing",
    queued="llamacpp:requests_deferred",
    any_model=True,
)
SGLANG = Dialect(
    "SGLang",
    prefix="sglang:",
    running="sglang:num_running_reqs",
    queued="sglang:num_queue_reqs",
    priority="higher",
)
DIALECTS = (
    Dialect(
        "vLLM",
        prefix="vllm:",
        running="vllm:num_requests_running",
        queued="vllm:num_requests_waiting",
        priority="lower",
    ),
    SGLANG,
    LLAMA_CPP,
    # serves its one model by whatever name
    Dialect("TGI", prefix="tgi_", running="tgi_batch_current_size", queued="tgi_queue_size", any_model=True),
    Dialect(
        "ssjf engine",
        prefix="ssjf_engine_",
        running="ssjf_engine_num_requests_running",
        queued="ssjf_engine_num_requests_waiting",
        limit="ssjf_engine_max_num_seqs",
    ),
    OLLAMA,
    UNKNOWN,
)

# where a kind tells how many requests it works on at once, if it does: page and name of the number
_LIMIT_PAGES: Mapping[str, tuple[str, str]] = {
    LLAMA_CPP.name: ("/props", "total_slots"),
    SGLANG.name: ("/get_server_info", "max_running_requests"),
}
_SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? +([-+.\deE]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine counts.

    Attributes:
        num_running: requests that it works on.
        num_queued: requests in its own queue.
    """

    num_running: int
    num_queued: int


async def recognise(backend: HTTPBackend) -> tuple[Dialect, int | None]:
    """The engine's kind, and how many requests it works on at once where it tells.

    Never fails: of an engine that does not answer nothing is known.
    """
    metrics: dict[str, float] = {}
    with contextlib.suppress(BackendError):
        metrics = _samples(await backend.page("/metrics"))
    for dialect in DIALECTS:
        if dialect.prefix and any(name.startswith(dialect.prefix) for name in metrics):
            break
    else:
        dialect = await _by_its_pages(backend)
    if dialect.limit in metrics:
        return dialect, _limit(metrics[dialect.limit])
    if dialect.name not in _LIMIT_PAGES:
        return dialect, None
    path, name = _LIMIT_PAGES[dialect.name]
    with contextlib.suppress(BackendError):
        page = await backend.json(path)
        return dialect, _limit(page.get(name)) if isinstance(page, dict) else None
    return dialect, None


async def _by_its_pages(backend: HTTPBackend) -> Dialect:
    """For engines whose metrics are switched off, or that have none."""
    for path, name, dialect in (
        ("/props", "total_slots", LLAMA_CPP),
        ("/api/version", "version", OLLAMA),
        ("/get_server_info", "max_running_requests", SGLANG),
    ):
        with contextlib.suppress(BackendError):
            page = await backend.json(path)
            if isinstance(page, dict) and name in page:
                return dialect
    return UNKNOWN


async def count(backend: HTTPBackend, dialect: Dialect) -> Load | None:
    """What the engine counts now; None where it does not."""
    if not dialect.queued:
        return None
    try:
        metrics = _samples(await backend.page("/metrics"))
    except BackendError:
        return None
    if dialect.queued not in metrics:
        return None
    return Load(int(metrics.get(dialect.running, 0)), int(metrics[dialect.queued]))


def _samples(page: bytes) -> dict[str, float]:
    """Metrics by name, summed over their labels: an engine of several workers has one sample for each."""
    found: dict[str, float] = {}
    for name, text in _SAMPLE.findall(page):
        with contextlib.suppress(ValueError):
            value = float(text)
            if math.isfinite(value):
                key = name.decode("ascii")
                found[key] = found.get(key, 0.0) + value
    return found


def _limit(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 1 <= value < 1 << 20 else None
