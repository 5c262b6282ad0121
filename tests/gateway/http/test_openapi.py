from typing import Any

import aiohttp
import orjson
import pytest

from ssjf.config import BackendSettings
from ssjf.gateway.http.openapi import document
from tests.gateway.conftest import MakeStack


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = document()
    assert references(text) == {f"#/components/schemas/{name}" for name in text["components"]["schemas"]}


async def test_the_gateway_serves_the_document_and_everything_in_it(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        async with stack.session.get(f"{stack.url}/openapi.json") as response:
            served = orjson.loads(await response.read())
        assert served == document()
        for path, operations in served["paths"].items():
            for method, operation in operations.items():
                body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x"} if method == "post" else None
                async with stack.session.request(method, stack.url + path, json=body) as response:
                    assert response.status == 200
                    assert response.content_type in operation["responses"]["200"]["content"]


@pytest.mark.parametrize(
    ("body", "settings", "status"),
    [
        ({"messages": []}, {}, 400),
        (
            {"messages": [{}], "model": "unknown"},
            {"backend": [], "backends": [BackendSettings(url="http://127.0.0.1:9", models=["known"])]},
            404,
        ),
        ({"messages": [{"content": "x" * 5000}]}, {"max_body_mb": 0.001}, 413),
        ({"messages": [{}]}, {"backend": ["http://127.0.0.1:9"]}, 503),
    ],
)
async def test_errors_are_as_the_document_says(
    make_stack: MakeStack, body: dict[str, Any], settings: dict[str, Any], status: int
) -> None:
    text = document()
    promised = text["paths"]["/v1/chat/completions"]["post"]["responses"][str(status)]
    assert references(promised) == {"#/components/schemas/Error"}
    shape = text["components"]["schemas"]["Error"]["properties"]["error"]
    async with make_stack(automatic=True, **settings) as stack:
        response: aiohttp.ClientResponse
        async with stack.session.post(f"{stack.url}/v1/chat/completions", json=body) as response:
            assert response.status == status
            error = (await response.json())["error"]
    assert sorted(error) == sorted(shape["required"])


async def test_health_is_told_also_where_clients_of_other_servers_look_for_it(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack, stack.session.get(f"{stack.url}/health") as response:
        assert (await response.json())["status"] == "ok"
