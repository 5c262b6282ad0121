"""`ssjf vllm`: what concerns the integration with vLLM."""

from importlib.metadata import PackageNotFoundError, distribution

import typer

from ssjf.errors import ConfigError

vllm = typer.Typer(help="Inside vLLM: does it work here, and how is it started?", no_args_is_help=True)


@vllm.callback()
def _group() -> None:
    """Keep `check` a subcommand, although it is the only one."""


@vllm.command()
def check() -> None:
    """Tell whether the vLLM of this environment and the settings (SSJF_VLLM_...) will work, and how to start it.

    Run it in the environment of vLLM. Exit code 2 and one line say what will not work.
    """
    from ssjf.integrations.vllm import compat
    from ssjf.integrations.vllm.front.lessons import check_usable
    from ssjf.integrations.vllm.preflight import MIDDLEWARE, SCHEDULER
    from ssjf.integrations.vllm.settings import load_settings
    from ssjf.predict.artefact import load_predictor

    settings = load_settings()
    policies = {
        "the scheduler class": settings.make_policy(limits_waits=True),
        "the front door": settings.make_policy(limits_waits=False),
    }
    load_predictor(settings.predictor)
    if settings.lessons is not None:
        check_usable(settings.lessons)  # by whoever asks; the server's own start makes it
    version = compat.check(compat.SCHEDULER_PROBES, any_version=settings.any_version)

    serve = _serve_command()
    service = "measured" if settings.service is None else "as set"
    typer.echo(f"vLLM {version} works with ssjf.")
    used = ", ".join(f"{type(policy).__name__} in {host}" for host, policy in policies.items())
    typer.echo(f"Policy {used}; predictor {settings.predictor}, service seconds {service}.\n")
    both = f"{serve} --middleware {MIDDLEWARE} --scheduler-cls {SCHEDULER}"
    if settings.tokens_in_priority:
        compat.check_names(compat.FRONT_DOOR_PROBES)
        typer.echo("Both, the front door predicting for the scheduler class:")
        typer.echo(f"  {both}")
        return
    typer.echo("The scheduler class, which predicts from token ids and learns as it goes:")
    typer.echo(f"  {serve} --scheduler-cls {SCHEDULER}\n")
    try:
        compat.check_names(compat.FRONT_DOOR_PROBES)
    except ConfigError as error:
        typer.echo(f"The front door does not work here: {error}.")
        return
    typer.echo("The front door, which predicts from the prompt's text:")
    typer.echo(f"  {serve} --scheduling-policy priority --middleware {MIDDLEWARE}")
    if not settings.accept_tiers:  # together they have no field for tiers
        typer.echo("\nBoth, the one predicting for the other:")
        typer.echo(f"  SSJF_VLLM_TOKENS_IN_PRIORITY=true {both}")


def _serve_command() -> str:
    """How vLLM's server is started here: builds under another name lack the command's own look-up."""
    try:
        distribution("vllm")
    except PackageNotFoundError:
        return "python -m vllm.entrypoints.openai.api_server --model MODEL"
    return "vllm serve MODEL"
