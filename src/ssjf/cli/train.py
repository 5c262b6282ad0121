"""`ssjf train`: make a predictor from recorded prompts and output lengths."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.prediction.samples import read_samples, sha256_of
from ssjf.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ssjf.predict.training import Trained

_FAMILIES = ("ngram",)


def train(
    data: Annotated[Path, typer.Argument(help="Prompts with output lengths: CSV, JSONL or Parquet, .gz too.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained predictor.")],
    family: Annotated[str, typer.Option(help=f"Kind of predictor: {', '.join(_FAMILIES)}.")] = "ngram",
    target_model: Annotated[
        str | None, typer.Option(help="Whose recorded lengths to learn from a set that has several models'.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the prompts to measure on, not to learn from.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
) -> None:
    """Train a predictor of output lengths offline, in seconds, and show how good it is on held-out prompts."""
    from rich.console import Console

    from ssjf.predict.artefact import save_predictor
    from ssjf.predict.training import train as train_predictor

    if family not in _FAMILIES:
        raise ConfigError(f"no family {family!r} to train; {did_you_mean(family, _FAMILIES)}")
    progress = Console(stderr=True)
    with progress.status("reading") as status:
        samples, skipped = read_samples(data, target_model)

        def tell(step: str) -> None:
            status.update(step)
            if not progress.is_terminal:
                progress.print(step)

        trained = train_predictor(samples, holdout=holdout, seed=seed, progress=tell)
        save_predictor(
            trained.predictor,
            out,
            {
                "data": {
                    "file": data.name,
                    "sha256": sha256_of(data),
                    "rows": len(samples) + skipped,
                    "skipped": skipped,
                    "target_model": target_model,
                },
                "settings": trained.settings,
                "split": trained.split,
                "metrics": trained.metrics,
                "metrics_by_model": trained.metrics_by_model,
            },
        )
    _show(trained, skipped, out)


def _show(trained: "Trained", skipped: int, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="On held-out prompts")
    table.add_column("target model", no_wrap=True)
    for column in ("samples", "tau-b", "MAE", "median's", "log MAE", "< p10", "< p50", "< p90"):
        table.add_column(column, justify="right")
    by_model = trained.metrics_by_model
    rows: dict[str, dict[str, Any]] = dict(by_model) if len(by_model) == 1 else {"all": trained.metrics, **by_model}
    for model, metrics in rows.items():
        tau_b = metrics["tau_b"]
        table.add_row(
            model,
            str(metrics["n"]),
            "-" if tau_b is None else f"{tau_b:.3f}",
            f"{metrics['mae']:.1f}",
            f"{metrics['median_mae']:.1f}",
            f"{metrics['log_mae']:.3f}",
            *(f"{metrics[f'coverage_{level}']:.0%}" for level in ("0.1", "0.5", "0.9")),
        )
    console = Console()
    console.print(table)
    if skipped:
        console.print(f"{skipped} rows without a prompt or a length were skipped")
    console.print(f"saved to {out}", soft_wrap=True)
