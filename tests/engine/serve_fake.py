"""A process that serves a fake pipeline: `python -m tests.engine.serve_fake NAME=VALUE ...`, settings by name.

It makes as many steps as it reads characters from its standard input; `fault_at_step` injects a fault.
"""

import sys
import threading
from pathlib import Path

from ssjf.engine.serve import EngineSettings, listening_socket, serve_pipeline
from ssjf.errors import SSJFError
from tests.engine.engine_fakes import FakePipeline, FakeTokenizer


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    settings = EngineSettings(
        model="fake",
        port=0,
        uds=Path(given["uds"]) if "uds" in given else None,
        drain_s=float(given.get("drain_s", "30")),
        exit_with_parent="exit_with_parent" in given,
    )
    pipeline = FakePipeline(free_running=False)
    pipeline.fault_at_step = int(given["fault_at_step"]) if "fault_at_step" in given else None

    def allow_steps() -> None:
        while sys.stdin.read(1):
            pipeline.allow(1)

    threading.Thread(target=allow_steps, daemon=True).start()
    with listening_socket(settings) as (sock, address):
        serve_pipeline(
            pipeline,
            FakeTokenizer(),
            settings,
            sock,
            model_name="fake",
            max_model_len=100,
            on_started=lambda: print(address, file=sys.stderr, flush=True),  # noqa: T201
        )


if __name__ == "__main__":
    try:
        main()
    except SSJFError as error:
        sys.exit(f"ssjf: {error}")
