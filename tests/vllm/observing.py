"""The front door with a window and a way around it.

A GET of /learned tells how many requests its predictor has learned from; requests with the header X-Around do not pass
through it at all.
"""

from typing import Any

import orjson

from ssjf.integrations.vllm import SSJFMiddleware


class ObservingMiddleware(SSJFMiddleware):  # type: ignore[misc]
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/learned":
            body = orjson.dumps(self._door._forecaster._num_observed)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        if scope["type"] == "http" and any(name == b"x-around" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)
