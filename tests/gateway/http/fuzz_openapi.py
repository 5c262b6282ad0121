"""`make test-fuzz`: schemathesis against a gateway before a fake engine; python fuzz_openapi.py SCHEMATHESIS.

Fails when schemathesis finds an answer that the document does not allow or an error of the server, when a request
hangs, and when anything is left behind afterwards.
"""

import asyncio
import sys

from ssjf.config import ServeSettings
from ssjf.gateway.http.app import make_app
from ssjf.gateway.serve import running_gateway
from ssjf.plugins import make_policy
from tests.gateway.conftest import WordCount
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.http.edge import edge

_ANSWER_S = "10"  # whoever waits longer hangs


async def main(schemathesis: str) -> int:
    async with FakeEngine(automatic=True).running() as engine:
        options = ServeSettings(backend=[engine.url], slots=2, policy="auto")
        async with (
            running_gateway(
                options,
                policy=lambda: make_policy("auto"),
                shadow=None,
                predictor=WordCount(),
                engine_command=None,
            ) as gateway,
            edge(make_app(gateway)) as (_, port),
        ):
            command = [schemathesis, "run", f"http://127.0.0.1:{port}/openapi.json", "--max-examples", "200"]
            command += ["--seed", "1", "--request-timeout", _ANSWER_S]
            command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
            process = await asyncio.create_subprocess_exec(*command)
            found = await process.wait()
            async with asyncio.timeout(30):
                await gateway.dispatcher.wait_until_idle()
            left = [len(gateway.answers), len(gateway.under_way), *(m.server.num_running for m in gateway.pool.members)]
            sys.stdout.write(f"requests that reached the engine: {len(engine.calls)}; left behind: {sum(left)}\n")
            return found or sum(left)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
