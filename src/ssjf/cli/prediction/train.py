"""`ssjf train`: make a predictor from recorded prompts and output lengths."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssjf.cli.prediction.samples import read_samples, sha256_of
from ssjf.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ssjf.predict.training import Fitter, Trained

_ENCODERS = ("proxy", "embedding")  # families that are made from a transformer encoder
_FAMILIES = ("ngram", "trees", *_ENCODERS)


def train(
    data: Annotated[Path, typer.Argument(help="Prompts with output lengths: CSV, JSONL or Parquet, .gz too.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained predictor.")],
    family: Annotated[str, typer.Option(help=f"Kind of predictor: {', '.join(_FAMILIES)}.")] = "ngram",
    target_model: Annotated[
        str | None, typer.Option(help="Whose recorded lengths to learn from a set that has several models'; or: all.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="proxy, embedding: folder or Hugging Face name of an encoder, or scratch for a new small one."
        ),
    ] = None,
    formulation: Annotated[
        str | None, typer.Option(help="proxy, embedding: what to ask the encoder, such as multiclass or listwise.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="proxy: default, or paper for the recipe of the paper.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="proxy, embedding: which tokens of a long text to keep: tail or head-tail.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="proxy, embedding: at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="proxy, embedding: samples in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="proxy, embedding: of the first step.")] = None,
    holdout: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the prompts to measure on, not to learn from.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
) -> None:
    """Train a predictor of output lengths offline and show how good it is on held-out prompts.

    The families proxy and embedding need pip install 'ssjf[train]'. Interrupted, they go on where they were.
    """
    from rich.console import Console

    from ssjf.predict.artefact import refuse_foreign, save_predictor
    from ssjf.predict.training import train as train_predictor

    if family not in _FAMILIES:
        raise ConfigError(f"no family {family!r} to train; {did_you_mean(family, _FAMILIES)}")
    out = out.resolve()
    refuse_foreign(out)
    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("encoder", encoder),
            ("formulation", formulation),
            ("truncation", truncation),
            ("epochs", epochs),
            ("batch_size", batch_size),
            ("learning_rate", learning_rate),
        )
        if value is not None
    }
    fitter: Fitter | None = None
    if family in _ENCODERS:
        fitter = _encoder_fitter(family, preset, given, out)
    elif given or preset:
        option = next(iter(given or {"preset": preset})).replace("_", "-")
        raise ConfigError(f"--{option} is for the families {' and '.join(_ENCODERS)}, not {family}")
    elif family == "trees":
        from ssjf.predict.trees.training import fit as fitter
    progress = Console(stderr=True)
    with progress.status("reading") as status:
        samples, skipped = read_samples(data, target_model, hashed=family == "ngram")

        def tell(step: str) -> None:
            status.update(step)
            if not progress.is_terminal:
                progress.print(step)

        trained = train_predictor(samples, fitter, holdout=holdout, seed=seed, progress=tell)
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
            openings=trained.openings,
        )
    _show(trained, skipped, out)


def _encoder_fitter(family: str, preset: str | None, given: dict[str, Any], out: Path) -> "Fitter":
    try:
        from ssjf.predict.proxy.training import fitter
    except ImportError as error:
        raise ConfigError(f"training {family} needs {error.name}: pip install 'ssjf[train]'") from None
    return fitter(family, preset, given, checkpoints=out.with_name(f"{out.name}.checkpoints"))


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
    console = Console(markup=False)
    console.width = max(console.width, 100)  # headings that are cut say nothing
    console.print(table)
    if skipped:
        console.print(f"{skipped} rows without a prompt or a length were skipped")
    console.print(f"saved to {out}", soft_wrap=True)
