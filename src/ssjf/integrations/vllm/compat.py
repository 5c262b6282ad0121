"""Which versions of vLLM this package works in, checked before anything depends on it.

vLLM calls its scheduler interface private. Few of its names are used here, and each is looked for at the start, so that
a version which has moved one says so at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

from ssjf.errors import ConfigError

OLDEST, NEWEST = (0, 20), (0, 33)
"""Supported versions, major and minor. The tests run 0.32; what is relied on was read in the others."""

_OVERRIDDEN = ("add_request", "schedule", "update_from_output")
_QUEUE = {"add_request", "pop_request", "peek_request", "prepend_request", "prepend_requests", "remove_request"}
_QUEUE |= {"remove_requests", "__bool__", "__len__", "__iter__"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that this package relies on.

    Attributes:
        what: in words.
        holds: whether it is there; may also raise ImportError or AttributeError.
    """

    what: str
    holds: Callable[[], bool]


def installed_version() -> str:
    """The version of the vLLM that can be imported.

    Raises:
        ConfigError: there is none.
    """
    try:
        from vllm.version import __version__ as version  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"vLLM cannot be imported here ({error}); install it into the same environment") from None
    return str(version)


def check(probes: tuple[Probe, ...], *, any_version: bool) -> str:
    """Refuse a vLLM in which this package would not work; returns its version.

    Args:
        probes: what is relied on.
        any_version: whether versions outside the supported range may try.

    Raises:
        ConfigError: there is none, or it is not supported, or lacks something.
    """
    version = installed_version()
    if not any_version:
        check_version(version)
    check_names(probes)
    return version


def check_version(version: str) -> None:
    """Refuse versions outside the supported range.

    Raises:
        ConfigError: it is older, newer, or says nothing of its age.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or not OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        supported = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        raise ConfigError(
            f"vLLM {version} is not supported, {supported} are; SSJF_VLLM_ANY_VERSION=true tries it all the same"
        )


def check_names(probes: tuple[Probe, ...]) -> None:
    """Look for what is relied on.

    Raises:
        ConfigError: something has moved; all that is missing is named.
    """
    missing = [probe.what for probe in probes if not _holds(probe)]
    if missing:
        raise ConfigError(f"this vLLM lacks what ssjf relies on: {'; '.join(missing)}; use a supported version")


def _holds(probe: Probe) -> bool:
    try:
        return probe.holds()
    except (ImportError, AttributeError):
        return False


def _scheduler_class() -> type[Any]:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: PLC0415

    found: type[Any] = AsyncScheduler
    return found


def _has_methods() -> bool:
    return all(callable(getattr(_scheduler_class(), name)) for name in _OVERRIDDEN)


def _has_request_fields() -> bool:
    from vllm.v1.request import Request  # noqa: PLC0415

    known = signature(Request).parameters
    return {"request_id", "prompt_token_ids", "sampling_params", "arrival_time", "priority"} <= set(known)


def _has_output_fields() -> bool:
    from vllm.v1.core.sched.output import SchedulerOutput  # noqa: PLC0415

    return "scheduled_new_reqs" in {field.name for field in fields(SchedulerOutput)}


def _has_priority_queue() -> bool:
    from vllm.v1.core.sched.request_queue import SchedulingPolicy  # noqa: PLC0415

    return SchedulingPolicy("priority") is SchedulingPolicy.PRIORITY


def _has_known_queue() -> bool:
    from vllm.v1.core.sched.request_queue import RequestQueue  # noqa: PLC0415

    return set(RequestQueue.__abstractmethods__) == _QUEUE


def _has_priority_header() -> bool:
    from vllm.entrypoints.generate.base.serving import PRIORITY_HEADER  # noqa: PLC0415

    return str(PRIORITY_HEADER).lower() == "x-vllm-priority"


SCHEDULER_PROBES = (
    Probe("the methods of AsyncScheduler", _has_methods),
    Probe("the fields of v1.request.Request", _has_request_fields),
    Probe("SchedulerOutput.scheduled_new_reqs", _has_output_fields),
    Probe("SchedulingPolicy.PRIORITY", _has_priority_queue),
    Probe("the methods of RequestQueue", _has_known_queue),
)
"""What the scheduler class relies on."""

FRONT_DOOR_PROBES = (Probe("the header X-Vllm-Priority", _has_priority_header),)
"""What the front door relies on."""
