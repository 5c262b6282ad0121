"""What servers of this project, gateway and engine, have in common as ASGI applications."""

from collections.abc import Callable

from starlette.types import Receive

from ssjf.errors import RequestError

# A body over the limit is read to its end all the same, up to this many bytes or the limit: a client that is still
# sending when the connection closes never sees why.
_MAX_DISCARDED_BYTES = 64 * 2**20


class ClientGone(Exception):
    """The client left before it had sent its request."""


async def receive_body(receive: Receive, limit: int, *, taken: Callable[[int], None] = lambda _: None) -> bytes:
    """A request's body.

    Args:
        receive: of ASGI.
        limit: bytes that it may have.
        taken: told of each piece that is kept, in bytes; may raise.

    Raises:
        RequestError: it is larger.
        ClientGone: the client left meanwhile.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= max(limit, _MAX_DISCARDED_BYTES):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size <= limit:
            taken(len(part))
            parts.append(part)
        else:
            parts.clear()
    if size > limit:
        raise RequestError(f"the request body is larger than {limit} bytes", status=413, code="body_too_large")
    return b"".join(parts)


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
