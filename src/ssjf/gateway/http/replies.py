"""Answers of the gateway's own."""

import asyncio

import orjson
from starlette.responses import Response
from starlette.types import Message

from ssjf.openai import JSONObject


def reply(payload: JSONObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON document as an ASGI application."""
    return Response(orjson.dumps(payload), status, headers, media_type="application/json")


async def never() -> Message:
    """What a plain response receives: nothing."""
    await asyncio.Future()
    raise AssertionError("unreachable")
