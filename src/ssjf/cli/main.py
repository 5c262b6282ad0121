"""The command `ssjf`: collects the subcommands and turns deliberate errors into one line and an exit code.

Exit codes: 0 done, 1 it ran and failed, 2 bad input or usage.
"""

import os
import sys

# before numpy is first imported: several threads for our small matrices would only fight the engine for its cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer

from ssjf.cli.config import config
from ssjf.cli.demo.command import demo
from ssjf.cli.engine import engine
from ssjf.cli.prediction.characterize import characterize
from ssjf.cli.prediction.evaluate import evaluate
from ssjf.cli.prediction.predict import predict
from ssjf.cli.prediction.train import train
from ssjf.cli.replay import replay
from ssjf.cli.serve import serve
from ssjf.cli.simulation.calibrate import calibrate
from ssjf.cli.simulation.compare import compare
from ssjf.cli.simulation.plan import plan
from ssjf.cli.simulation.reproduce import reproduce
from ssjf.cli.simulation.simulate import simulate
from ssjf.cli.vllm import vllm
from ssjf.errors import SSJFError, UserError

app = typer.Typer(
    name="ssjf",
    help="Speculative shortest-job-first scheduling for LLM servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS = (
    *(demo, serve, engine, replay),
    *(train, evaluate, predict, characterize),
    *(simulate, compare, plan, calibrate, reproduce),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(config, name="config")
app.add_typer(vllm, name="vllm")


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except UserError as error:
        print(f"ssjf: {error}", file=sys.stderr)  # noqa: T201 - the command's own voice
        sys.exit(2)
    except SSJFError as error:
        print(f"ssjf: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
