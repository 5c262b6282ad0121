"""`ssjf engine`: the embedded engine as a server of its own."""

from pathlib import Path
from typing import Annotated

import typer


def engine(
    *,
    model: Annotated[
        str | None,
        typer.Option(help="GGUF file, OpenVINO IR folder, or hub id of one (owner/name or owner/name/file.gguf)"),
    ] = None,
    served_model_name: Annotated[str | None, typer.Option(help="how clients call the model")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="requests that run at once")] = 8,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="tokens of prompt and answer together")] = None,
    kv_cache_gib: Annotated[float, typer.Option(min=0.001, help="memory that the KV cache may take")] = 1.0,
    threads: Annotated[int | None, typer.Option(min=1, help="of inference; default: half of the CPUs")] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 for any free one")] = 8000,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on instead")] = None,
    drain_s: Annotated[float, typer.Option(min=0, help="seconds for running requests to finish after SIGTERM")] = 30.0,
    exit_with_parent: Annotated[bool, typer.Option(help="end when the process that started this one does")] = False,
) -> None:
    """Serve a model with OpenAI's HTTP interface: first come first served, so many at a time."""
    from ssjf.engine.serve import EngineSettings, serve

    if model is None:
        from ssjf.engine.bundled_model import BUNDLED_MODEL_NAME, BUNDLED_MODEL_PATH

        model, served_model_name = str(BUNDLED_MODEL_PATH), served_model_name or BUNDLED_MODEL_NAME
    serve(
        EngineSettings(
            model=model,
            served_model_name=served_model_name,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            kv_cache_gib=kv_cache_gib,
            num_threads=threads,
            host=host,
            port=port,
            uds=uds,
            drain_s=drain_s,
            exit_with_parent=exit_with_parent,
        )
    )
