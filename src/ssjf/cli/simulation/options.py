"""Options that several commands of simulation have, worded once.

The default of each is None, so that one that nothing would heed can be told from one that was not given.
"""

from pathlib import Path
from typing import Annotated

import typer

InputLengths = Annotated[
    str | None, typer.Option(help="with --lengths: prompts of such lengths; default: one token each")
]
BatchWaitS = Annotated[float | None, typer.Option(help="dynamic: how long a batch may wait to fill; default: 1")]
BaseSeconds = Annotated[float | None, typer.Option(help="service seconds of any job; default: 0.1")]
SecondsPerToken = Annotated[float | None, typer.Option(help="more for each output token; default: 0.02")]
SecondsPerInputToken = Annotated[float | None, typer.Option(help="more for each input token; default: 0")]
CostModel = Annotated[
    Path | None, typer.Option(help="iteration by iteration, with costs from `ssjf calibrate`, instead of the seconds")
]
KVTokens = Annotated[
    int | None, typer.Option(help="with --cost-model: tokens that the KV cache holds; default: enough")
]
MaxNumBatchedTokens = Annotated[
    int | None, typer.Option(help="with --cost-model: tokens computed in one iteration; default: 2048")
]
PrefixHitFraction = Annotated[
    float | None, typer.Option(help="with --cost-model: part of each prompt that the prefix cache has; default: 0")
]
PrefixLifetimeS = Annotated[
    float | None, typer.Option(help="and for how long after the arrival: who waits longer has lost it")
]
MaxWaitS = Annotated[float | None, typer.Option(help="once a job waited this long, nobody overtakes it")]
TargetModel = Annotated[str | None, typer.Option(help="whose lengths, in a file for several models")]
