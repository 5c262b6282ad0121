"""A job's place in the order as one integer, for engines that sort by a priority and know nothing of policies.

Laws of this file:
1. The order of priorities is the order of (tier, key): a larger key never gets the better priority, and no key of one
   tier comes near those of another.
2. Keys that differ by less than `RESOLUTION_S` may get the same priority; engines then go by arrival, as queues do.
   Where a second of arrival weighs more than a second in the key, that is `RESOLUTION_S` of arrival.
3. Every priority lies strictly between −2^53 and 2^53, so that it passes through JSON and float64 unchanged, and
   through an engine's int64 all the more.

A priority is given once, at arrival, and nothing is sorted again: only policies whose keys stand still can be put like
this. Keys that age do so through the arrival time, for which all who give priorities to one engine need one clock.

This module does not know which engine sorts, nor how the priority gets there.
"""

from dataclasses import dataclass, field
from math import floor, isfinite

from ssjf.core.policies import Auto, AutoStatic
from ssjf.core.types import AdaptivePolicy, Job, Policy, Request
from ssjf.errors import ConfigError

RESOLUTION_S = 1e-4
"""Differences of keys that are sure to show; keys are seconds."""

NUM_TIERS = 127
"""Tiers further from 0 than this count as this."""

_TICKS_PER_S = 10_000
_HALF = 2**45  # ticks: 3.5e9 s, so that a clock which counts from 1970, plus thirty years, fits until 2049
_TIER = 2 * _HALF
_LATEST_S = 2.5e9  # 2049
_SERVICES_S = (1e-3, 1e5)  # shorter and longer requests have the first or the last place


@dataclass(frozen=True, slots=True)
class PriorityMap:
    """Turns keys of one policy into priorities.

    Attributes:
        policy: one that `sortable` let through.
        higher_first: the engine serves larger numbers first, as SGLang does; vLLM serves smaller ones first.
    """

    policy: Policy
    higher_first: bool = False
    _unit: float = field(init=False, repr=False)  # of keys, so that those which grow faster than the clock fit as well

    def __post_init__(self) -> None:
        """Find out the unit, which is the same in all processes that have the policy."""
        object.__setattr__(self, "_unit", _unit(self.policy))

    def priority(self, job: Job, now: float) -> int:
        """What to tell the engine about a job that has just arrived."""
        tier = min(max(job.request.tier, -NUM_TIERS), NUM_TIERS)
        # clamped before it is made an integer: a key may be as large as a float gets
        ticks = floor(min(max(self.policy.key(job, now) / self._unit * _TICKS_PER_S, -_HALF), _HALF - 1))
        priority = tier * _TIER + ticks
        return -priority if self.higher_first else priority


def sortable(policy: Policy, *, limits_waits: bool = False) -> Policy:
    """The policy that a host which sorts by one number per request uses when this one is asked for.

    That is the policy itself, except that `auto`, which needs a queue that asks how long the oldest may wait, is
    replaced by `auto-static` where there is no such queue. A host that gets another policy back should say so.

    Args:
        policy: what is asked for.
        limits_waits: whether the host's queue lets a policy put its oldest request first.

    Raises:
        ConfigError: no integer given at arrival can stand for the policy's order.
    """
    name = type(policy).__name__
    if isinstance(policy, Auto) and not limits_waits:
        return AutoStatic(full_trust=policy.full_trust)
    if not policy.static:
        raise ConfigError(
            f"policy {name} has keys that move while a request waits, and an engine sorts by one number given at "
            "arrival; use auto-static, aged-ssjf or ssjf"
        )
    if getattr(policy, "preemptive", False):
        raise ConfigError(
            f"policy {name} takes slots from running requests, which a priority does not make an engine do; use "
            "auto-static, aged-ssjf or ssjf"
        )
    if isinstance(policy, AdaptivePolicy) and getattr(policy, "limits_waits", True) and not limits_waits:
        raise ConfigError(
            f"policy {name} limits waits in a queue of its own, which a priority cannot do; use auto-static"
        )
    unit = _unit(policy)
    farthest_s = max(abs(key) for key in _extreme_keys(policy)) / unit
    if not farthest_s * _TICKS_PER_S < _HALF:  # neither infinite nor NaN
        raise ConfigError(
            f"the keys of {policy} are too large for priorities, and all requests would get the same; use a constant "
            "nearer to the default"
        )
    return policy


def _unit(policy: Policy) -> float:
    """How much the key grows with a second of arrival, if more than 1; keys in this unit are ordered as before."""
    growth = abs(_key(policy, 1.0, 1.0) - _key(policy, 0.0, 1.0))
    return max(growth, 1.0) if isfinite(growth) else 1.0


def _extreme_keys(policy: Policy) -> list[float]:
    """Keys of the shortest and the longest request, both on a clock that has just begun and on one from 1970."""
    return [_key(policy, arrival, service_s) for arrival in (0.0, _LATEST_S) for service_s in _SERVICES_S]


def _key(policy: Policy, arrival: float, service_s: float) -> float:
    return policy.key(Job(Request(request_id="", arrival_time=arrival), service_s), arrival)
