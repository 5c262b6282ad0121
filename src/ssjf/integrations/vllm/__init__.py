"""Two ways into vLLM, each named by one flag of its server.

    --scheduling-policy priority --middleware ssjf.integrations.vllm.SSJFMiddleware      the front door
    --scheduler-cls ssjf.integrations.vllm.SSJFScheduler                                 the scheduler class

Nothing is imported before it is asked for: the front door needs no vLLM, and vLLM is slow to import. As vLLM gives the
class of a middleware no moment between its import and the first request, settings are checked when it is asked for.
"""

from typing import Any

from ssjf.errors import did_you_mean

__all__ = ["SSJFMiddleware", "SSJFScheduler"]


def __getattr__(name: str) -> Any:
    if name == "SSJFScheduler":
        from ssjf.integrations.vllm.scheduler import SSJFScheduler  # noqa: PLC0415

        return SSJFScheduler
    if name == "SSJFMiddleware":
        from ssjf.integrations.vllm.front.middleware import SSJFMiddleware  # noqa: PLC0415

        SSJFMiddleware.check()
        return SSJFMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; {did_you_mean(name, __all__)}")
