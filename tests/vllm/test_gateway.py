"""vLLM behind the gateway in priority mode: all requests wait in vLLM, in the gateway's order."""

from pathlib import Path

from ssjf.cli.demo.processes import running_server
from tests.vllm.asking import client_of, order_of_service
from tests.vllm.serving import serving

LISTENS = ["--scheduling-policy", "priority", "--max-num-seqs", "1"]


async def test_vllm_serves_in_the_order_of_a_gateway_that_lets_all_in(tiny_model: Path, tmp_path: Path) -> None:
    with serving(tiny_model, tmp_path / "vllm.log", *LISTENS, settings={}) as engine:
        options = ["--backend", engine, "--mode", "priority", "--policy", "ssjf", "--accept-hints"]
        async with running_server("serve", options, log=tmp_path / "gateway.log") as gateway:
            # whatever priority clients put into vLLM's own header
            order = await order_of_service(gateway, [30, 10, 40, 20], (0, -1, -2, -3), engine=engine)
            assert order == [1, 3, 0, 2]
            async with client_of(gateway) as client:
                answer = await client.completions.create(model="tiny", prompt="Sea", max_tokens=5)
                assert answer.usage is not None
                assert answer.usage.completion_tokens <= 5
