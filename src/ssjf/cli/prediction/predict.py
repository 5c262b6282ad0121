"""`ssjf predict`: what a predictor says of prompts."""

import sys
from typing import Annotated

import typer

from ssjf.errors import ConfigError


def predict(
    predictor: Annotated[str, typer.Argument(help="Folder of a trained predictor, or the name of one.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; without any, one is read from each line of standard input.")
    ] = None,
    target_model: Annotated[str, typer.Option(help="Whose answer is to be predicted.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Predict how many tokens the answers to prompts will have."""
    import orjson
    from rich.console import Console
    from rich.table import Table

    from ssjf.core.types import Request
    from ssjf.predict.artefact import load_predictor

    loaded = load_predictor(predictor)
    if not prompts:
        if sys.stdin.isatty():
            raise ConfigError("give prompts as arguments, or one a line on standard input")
        prompts = [line.rstrip("\r\n") for line in sys.stdin]
    requests = [
        Request(request_id=str(index), prompt=prompt, model=target_model, arrival_time=0.0)
        for index, prompt in enumerate(prompts)
    ]
    predictions = loaded.predict(requests)
    if as_json:
        for prompt, prediction in zip(prompts, predictions, strict=True):
            row = {
                "prompt": prompt.encode("utf-8", "replace").decode(),  # what came was perhaps no UTF-8
                "num_output_tokens": prediction.num_output_tokens,
                "quantiles": {f"{level:g}": tokens for level, tokens in prediction.quantiles},
                "source": prediction.source,
            }
            sys.stdout.buffer.write(orjson.dumps(row) + b"\n")
        sys.stdout.buffer.flush()
        return
    levels = [level for level, _ in predictions[0].quantiles] if predictions else []
    table = Table()
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", max_width=60)
    for heading in ("tokens", *(f"p{100 * level:g}" for level in levels)):
        table.add_column(heading, justify="right")
    for prompt, prediction in zip(prompts, predictions, strict=True):
        figures = (prediction.num_output_tokens, *(tokens for _, tokens in prediction.quantiles))
        table.add_row(prompt, *(f"{tokens:.0f}" for tokens in figures))
    Console(markup=False).print(table)
