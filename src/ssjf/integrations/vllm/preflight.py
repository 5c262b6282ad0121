"""Before vLLM loads a model: would it find, minutes later, that what it is to load of ours cannot work?

vLLM calls `preflight` in every process that it starts, through the entry point `vllm.general_plugins`. It looks at the
command line alone, so it says nothing where ssjf is installed but not asked for, and does not see what is named in
`--config`; there the classes themselves refuse, later and among other output.
"""

import sys
from collections.abc import Sequence
from multiprocessing import parent_process

from ssjf.errors import ConfigError, UserError
from ssjf.integrations.vllm.compat import FRONT_DOOR_PROBES, SCHEDULER_PROBES, check
from ssjf.integrations.vllm.front.middleware import make_predictor
from ssjf.integrations.vllm.settings import load_settings

MIDDLEWARE, SCHEDULER = "ssjf.integrations.vllm.SSJFMiddleware", "ssjf.integrations.vllm.SSJFScheduler"


def preflight() -> None:
    """End a server that cannot start with one line and exit code 2; only the first process of it looks."""
    if parent_process() is not None:
        return
    try:
        check_arguments(sys.argv[1:])
    except UserError as error:
        print(f"ssjf: {error}", file=sys.stderr)  # noqa: T201 - vLLM would log a traceback
        sys.exit(2)


def check_arguments(arguments: Sequence[str]) -> None:
    """Check what a command line asks for of ours, as far as it can be checked before the start.

    Args:
        arguments: those of vLLM's server.

    Raises:
        UserError: it cannot work; the message says what to do.
    """
    words = [word for argument in arguments for word in argument.split("=")]
    if MIDDLEWARE not in words and SCHEDULER not in words:
        return
    settings = load_settings()
    if "--config" not in words and "--headless" not in words:  # the other may be named there, or on another machine
        settings.check_hosts(front_door=MIDDLEWARE in words, scheduler=SCHEDULER in words)
    if SCHEDULER in words:
        settings.make_policy(limits_waits=True)
        check(SCHEDULER_PROBES, any_version=settings.any_version)
    if MIDDLEWARE in words:
        settings.make_policy(limits_waits=False)
        make_predictor(settings)
        check(FRONT_DOOR_PROBES, any_version=settings.any_version)
        if SCHEDULER not in words and "priority" not in words and "--config" not in words:
            raise ConfigError("vLLM heeds no priorities unless it is told to: add --scheduling-policy priority")
