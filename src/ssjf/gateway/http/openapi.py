"""What the gateway's endpoints take and give, as an OpenAPI document at /openapi.json.

It describes what the gateway itself looks at and answers; all other fields pass through to the engine, and what engines
answer is theirs to describe.
"""

from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ssjf.gateway.http.replies import reply
from ssjf.openai import JSONObject

_JSON = "application/json"
_MAX_TOKENS = {"type": ["integer", "null"], "description": "the client's cap on output tokens; below 1 none"}


async def openapi(_: Request) -> Response:
    """The endpoint."""
    return reply(document())


def document() -> JSONObject:
    """The document; OpenAPI 3.1."""
    completions = {name: _completions(name) for name in ("chat/completions", "completions")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ssjf gateway", "version": version("ssjf"), "description": __doc__},
        "paths": {
            **{f"/v1/{name}": {"post": operation} for name, operation in completions.items()},
            "/v1/models": {"get": _page("The models of all engines, each once.", _ref("Models"), 401, 503)},
            "/healthz": {"get": _page("Whether requests can be served.", _ref("Health"), 503, error="Health")},
            "/metrics": {"get": _metrics()},
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],  # a key is asked for only where the settings name some
    }


def _ref(name: str) -> JSONObject:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: JSONObject) -> JSONObject:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _errors(*statuses: int) -> JSONObject:
    return {str(status): _answer(_WHY[status], _ref("Error")) for status in statuses}


def _page(summary: str, schema: JSONObject, *statuses: int, error: str = "Error") -> JSONObject:
    failures = {str(status): _answer(_WHY[status], _ref(error)) for status in statuses}
    return {"summary": summary, "responses": {"200": _answer("as it is now", schema), **failures}}


def _metrics() -> JSONObject:
    text = {"description": "as it is now", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": "Numbers for Prometheus.", "responses": {"200": text, **_errors(401, 403)}}


def _completions(name: str) -> JSONObject:
    header: dict[str, Any] = {"in": "header", "required": False}
    number = {"type": "number", "minimum": 0}
    parameters = [
        header | {"name": "x-request-id", "schema": {"type": "string"}, "description": "kept, if it is a proper one"},
        header | {"name": "x-ssjf-deadline-s", "schema": number, "description": "504 if it waits for longer"},
    ]
    request = {"required": True, "content": {_JSON: {"schema": _ref("Chat" if name.startswith("chat") else "Prompt")}}}
    stream = {"schema": {"type": "string", "description": "server-sent events, byte for byte the engine's"}}
    answer = {
        "description": "the engine's",
        "content": {_JSON: {"schema": {"type": "object"}}, "text/event-stream": stream},
    }
    failures = _errors(400, 401, 404, 408, 413, 429, 431, 502, 503, 504)
    return {
        "summary": "Scheduled: waits for its turn, then goes to an engine.",
        "parameters": parameters,
        "requestBody": request,
        "responses": {"200": answer, **failures, "default": {"description": "the engine's"}},
    }


_WHY = {
    400: "no engine would serve this",
    401: "the API key is missing or wrong",
    403: "this API key may not see it",
    404: "no engine has this model",
    408: "the request came too slowly",
    413: "the body is too large",
    429: "too many requests wait already; see retry-after",
    431: "the headers are too large",
    502: "the engine failed, and no other could step in",
    503: "no engine is in order, or the gateway shuts down",
    504: "the deadline passed while the request waited",
}

_COMMON = {
    "model": {"type": ["string", "null"]},
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"]},
    "max_tokens": _MAX_TOKENS,
}

_SCHEMAS: JSONObject = {
    "Chat": {
        "type": "object",
        "required": ["messages"],
        "properties": {
            **_COMMON,
            "max_completion_tokens": _MAX_TOKENS,
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        },
    },
    "Prompt": {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            **_COMMON,
            "prompt": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]},
        },
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
    },
    "Health": {
        "type": "object",
        "required": ["status", "engine", "backends", "live_requests"],
        "properties": {
            "status": {"enum": ["ok", "draining", "engine unavailable"]},
            "engine": {"type": "string"},
            "backends": {"type": "object", "additionalProperties": {"type": "string"}},
            "live_requests": {"type": "integer", "minimum": 0},
        },
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
}
