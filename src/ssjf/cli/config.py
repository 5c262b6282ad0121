"""`ssjf config`: settings checked before a server is started with them, and API keys."""

from pathlib import Path
from typing import Annotated

import typer

from ssjf.config import ServeSettings, environment, load_settings
from ssjf.errors import ConfigError

config = typer.Typer(help="Check a settings file, and make API keys.", no_args_is_help=True)


@config.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="TOML file; none checks environment and defaults.")] = None,
) -> None:
    """Read settings as `ssjf serve --config FILE` would, try policy, predictor and engines' URLs, and show them all."""
    from rich.console import Console
    from rich.table import Table

    from ssjf.cli.serve import check_together
    from ssjf.gateway.serve import make_pool
    from ssjf.predict.artefact import load_predictor

    settings = load_settings(file)
    check_together(settings)
    load_predictor(settings.predictor)
    make_pool(settings, settings.engines())
    table = Table("setting", "value", "from", title=None if file is None else str(file))
    for name in ServeSettings.model_fields:
        value = getattr(settings, name)
        if value != ServeSettings.model_fields[name].get_default(call_default_factory=True):
            table.add_row(name, _shown(name, value), _origin(name, file))
    console = Console(width=120)
    if table.row_count:
        console.print(table)
    console.print("all other settings have their defaults" if table.row_count else "all settings have their defaults")
    console.print("these settings work")


@config.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for logs and metrics.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose requests it sends; none is the name.")] = None,
    tier: Annotated[int, typer.Option(help="Smaller tiers are served strictly first.")] = 0,
    admin: Annotated[bool, typer.Option("--admin", help="May see /metrics and /dashboard.")] = False,
    hints: Annotated[bool, typer.Option("--hints", help="May give output lengths, tiers and priorities.")] = False,
) -> None:
    """Make an API key: it is shown once, and the lines for the settings file hold only its hash."""
    from ssjf.gateway.keys import new_key

    if '"' in name or '"' in (tenant or "") or "\\" in name + (tenant or ""):
        raise ConfigError("names of keys and tenants hold neither quotation marks nor backslashes")
    secret, digest = new_key()
    typer.echo(f"the key, which is not kept anywhere: {secret}", err=True)
    lines = ["[[keys]]", f'name = "{name}"', f'sha256 = "{digest}"']
    lines += [f'tenant = "{tenant}"'] if tenant else []
    lines += [f"tier = {tier}"] if tier else []
    lines += ["admin = true"] if admin else []
    lines += ["hints = true"] if hints else []
    typer.echo("\n".join(lines))


def _shown(name: str, value: object) -> str:
    if name == "keys" and isinstance(value, list):
        return ", ".join(entry.name for entry in value)  # not even their hashes
    if name == "backends" and isinstance(value, list):
        return ", ".join(entry.url for entry in value)
    return str(value)


def _origin(name: str, file: Path | None) -> str:
    variable = f"SSJF_{name.upper()}"
    return variable if variable in environment() else str(file)
