"""`ssjf serve`: the gateway."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ssjf.config import ServeSettings, load_settings
from ssjf.core.priority import sortable
from ssjf.core.types import Policy
from ssjf.errors import ConfigError, did_you_mean
from ssjf.plugins import make_policy

_log = logging.getLogger(__name__)
_EMBEDDED_SLOTS = 8  # how many the embedded engine serves at once is for us to say


def _help(name: str) -> str:
    field = ServeSettings.model_fields[name]
    # in parentheses: what stands in brackets is markup to the help page, and vanishes
    default = "" if field.default in (None, [], False) else f" (default: {field.default})"
    return f"{field.description}{default}"


def serve(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with these and further settings; see ssjf config check.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help=_help("backend"))] = None,
    model: Annotated[str | None, typer.Option(help=_help("model"))] = None,
    policy: Annotated[str | None, typer.Option(help=_help("policy"))] = None,
    shadow: Annotated[str | None, typer.Option(help=_help("shadow"))] = None,
    slots: Annotated[str | None, typer.Option(metavar="N|auto", help=_help("slots"))] = None,
    mode: Annotated[str | None, typer.Option(help=_help("mode"))] = None,
    host: Annotated[str | None, typer.Option(help=_help("host"))] = None,
    port: Annotated[int | None, typer.Option(help=_help("port"))] = None,
    predictor: Annotated[str | None, typer.Option(help=_help("predictor"))] = None,
    accept_hints: Annotated[bool | None, typer.Option("--accept-hints", help=_help("accept_hints"))] = None,
    ignore_max_tokens: Annotated[
        bool | None, typer.Option("--ignore-max-tokens", help=_help("ignore_max_tokens"))
    ] = None,
    max_waiting: Annotated[int | None, typer.Option(help=_help("max_waiting"))] = None,
    max_wait_s: Annotated[float | None, typer.Option(help=_help("max_wait_s"))] = None,
    max_body_mb: Annotated[float | None, typer.Option(help=_help("max_body_mb"))] = None,
    predict_budget_ms: Annotated[float | None, typer.Option(help=_help("predict_budget_ms"))] = None,
    drain_s: Annotated[float | None, typer.Option(help=_help("drain_s"))] = None,
    log_format: Annotated[str | None, typer.Option(metavar="text|json", help=_help("log_format"))] = None,
    log: Annotated[Path | None, typer.Option(help=_help("log"))] = None,
    log_prompts: Annotated[bool | None, typer.Option("--log-prompts", help=_help("log_prompts"))] = None,
) -> None:
    """Serve OpenAI-compatible requests, shortest predicted answer first, before any engine.

    Every option can also be set in the environment, for example SSJF_POLICY=ssjf, or in a file given by --config, which
    also has settings for several engines, API keys and tenants. Flags win over the environment, and that over the file.
    """
    flags = {name: value for name, value in locals().items() if name != "config" and value != []}
    settings = load_settings(config, **flags)
    check_together(settings)
    if not settings.engines() and settings.slots == "auto":
        settings = settings.model_copy(update={"slots": _EMBEDDED_SLOTS})

    from ssjf.gateway import serve as gateway
    from ssjf.gateway.logs import configure
    from ssjf.predict.artefact import load_predictor
    from ssjf.predict.online import corrected

    configure(settings.log_format)
    if not settings.keys and not settings.listens_to_itself:
        _log.warning("anybody who reaches %s may use this server: see ssjf config key", settings.host)
    code = gateway.serve(
        settings,
        policy=_policy(settings.policy),
        shadow=None if settings.shadow is None else _policy(settings.shadow),
        predictor=corrected(load_predictor(settings.predictor)),
        engine_command=None if settings.engines() else _engine_command(settings),
    )
    raise typer.Exit(code)


def check_together(settings: ServeSettings) -> None:
    """Find out before anything starts what each setting alone cannot show.

    Raises:
        ConfigError: settings that do not go together, or a policy that does not work here.
    """
    policy = _policy(settings.policy)()
    if settings.shadow is not None:
        _policy(settings.shadow)
    if settings.engines() and settings.model is not None:
        raise ConfigError("--model is for the embedded engine; with --backend the engine has its own")
    if settings.log_prompts and settings.log is None:
        raise ConfigError("log_prompts keeps prompts in the request log, and there is none: log is its file")
    _check_tenants(settings)
    modes = {engine.mode or settings.mode for engine in settings.engines()} or {settings.mode}
    if "priority" in modes:
        if not settings.engines():
            raise ConfigError("the embedded engine knows no priorities; mode priority is for those of --backend")
        sortable(policy)
        for name, is_set in (
            ("max_wait_s", settings.max_wait_s is not None),
            ("fair", settings.fair),
            ("shadow", settings.shadow is not None),
        ):
            if is_set:
                raise ConfigError(f"{name} is for requests that wait here; with mode priority they wait in the engine")
        for engine in settings.engines():
            given = engine.slots is not None or (modes == {"priority"} and "slots" in settings.model_fields_set)
            if given and (engine.mode or settings.mode) == "priority":
                raise ConfigError(
                    f"slots are for mode hold; with mode priority all go in at once, here to {engine.url}"
                )


def _check_tenants(settings: ServeSettings) -> None:
    known = {key.tenant or key.name for key in settings.keys}
    for name, tenant in settings.tenants.items():
        if not settings.keys and not settings.tenant_header:
            raise ConfigError(f"nobody can tell who is of tenant {name}: that takes keys, or tenant_header")
        if settings.keys and name not in known:
            raise ConfigError(f"no key is of tenant {name}; {did_you_mean(name, known)}")
        if "weight" in tenant.model_fields_set and not settings.fair:
            raise ConfigError(f"the weight of tenant {name} is its share where tenants are served fairly: set fair")


def _policy(spec: str) -> Callable[[], Policy]:
    """A factory of the policy, tried once so that a bad name fails before anything starts."""
    if spec.partition(":")[0] == "sjf":
        raise ConfigError("policy 'sjf' knows the true lengths, which a server cannot; use ssjf, or ssjf with hints")
    if getattr(make_policy(spec), "preemptive", False):
        raise ConfigError(f"policy {spec!r} preempts running requests, which a gateway cannot; it works in simulations")
    return lambda: make_policy(spec)


def _engine_command(settings: ServeSettings) -> Callable[[Path], Sequence[str]]:
    def command(socket: Path) -> Sequence[str]:
        words = [sys.executable, "-m", "ssjf", "engine", "--max-num-seqs", str(settings.slots), "--uds", str(socket)]
        words += ["--exit-with-parent"]
        return words if settings.model is None else [*words, "--model", settings.model]

    return command
