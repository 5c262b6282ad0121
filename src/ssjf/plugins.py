"""Find policies, predictors and backends by name, through entry points.

Ours and a stranger's are found in the same way: a package declares, for example,

    [project.entry-points."ssjf.policies"]
    longest-first = "their_package:LongestFirst"

and from then on ``--policy longest-first`` works everywhere. Constants are given as ``name:constant=value:...``.
"""

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ssjf.core.types import AdaptivePolicy, Policy
from ssjf.errors import PluginError, did_you_mean

POLICIES = "ssjf.policies"
PREDICTORS = "ssjf.predictors"


def names(group: str) -> list[str]:
    """The names of all plugins of an entry-point group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def find(group: str, name: str) -> Any:
    """Load the object that a plugin's entry point names.

    Raises:
        PluginError: there is none of that name, or importing it failed.
    """
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=group)}
    kind = group.rpartition(".")[2]
    if name not in points:
        raise PluginError(f"no {kind} named {name!r}; {did_you_mean(name, points)}")
    try:
        return points[name].load()
    except Exception as error:
        raise PluginError(f"{kind} {name!r} ({points[name].value}) cannot be loaded: {error}") from error


def make_policy(spec: str) -> Policy:
    """Build a policy from ``name`` or ``name:constant=value:constant=value``.

    Raises:
        PluginError: unknown name or constant, or a value that the policy refuses.
    """
    name, *pairs = spec.split(":")
    factory = find(POLICIES, name)
    known = [constant for constant in inspect.signature(factory).parameters if not constant.startswith("_")]
    constants: dict[str, float] = {}
    for pair in pairs:
        constant, equals, value = pair.partition("=")
        if not equals or constant not in known:
            choice = did_you_mean(constant, known) if known else "it has none"
            raise PluginError(f"policy {name!r} has no constant {constant!r}; {choice}")
        try:
            constants[constant] = float(value)
        except ValueError:
            raise PluginError(f"policy {name!r}: {constant} must be a number, not {value!r}") from None
    try:
        policy: Policy = factory(**constants)
    except (TypeError, ValueError) as error:  # somebody else's may need what nobody gave
        raise PluginError(f"policy {name!r}: {error}") from None
    if hasattr(policy, "wait_limit_s") and not isinstance(policy, AdaptivePolicy):
        raise PluginError(f"policy {name!r} limits waits, and lacks other methods of ssjf.core.types.AdaptivePolicy")
    return policy
