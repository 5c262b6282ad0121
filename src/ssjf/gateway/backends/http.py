"""One OpenAI-compatible engine over HTTP: embedded or not, local socket or network.

It sends and receives; it knows neither queues nor predictions. How long an answer may take is not its affair either:
whoever awaits one sets the limits.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import orjson
import yarl

from ssjf.errors import BackendError

# what belongs to one hop of a connection and is never passed on (RFC 9110, section 7.6.1), or is ours to set
_NOT_FORWARDED = {
    b"connection",
    b"expect",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"host",
    b"content-length",
    b"accept-encoding",
    b"x-vllm-priority",  # to vLLM it counts more than the priority in the body, which is ours
}
_OWN_PREFIX = b"x-ssjf-"

Headers = Sequence[tuple[bytes, bytes]]

# Shorter than the 5 s after which common servers close an idle connection: no request is to meet one being closed.
_KEEPALIVE_S = 2.0
_QUESTION_S = 5.0  # for what the gateway itself asks: a request must not hang on an engine that lists its models slowly


class EngineUnreachable(BackendError):
    """No connection could be made: nothing of the request has reached the engine."""


def forwardable(headers: Headers, *, keep_keys: bool = False) -> list[tuple[bytes, bytes]]:
    """The headers that may pass from one hop to the next, as they are: not those that belong to one, or are said to.

    Args:
        headers: those that came.
        keep_keys: API keys stay here.
    """
    named = [value for name, value in headers if name.lower() == b"connection"]
    of_this_hop = _NOT_FORWARDED.union(word.strip().lower() for value in named for word in value.split(b","))
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in of_this_hop
        and not name.lower().startswith(_OWN_PREFIX)
        and not (keep_keys and name.lower() == b"authorization")
    ]


def _text(value: bytes) -> str:
    """A header's value such that the HTTP client, which sends UTF-8, sends the same bytes where it can."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


class HTTPBackend:
    """An engine behind a URL.

    Args:
        url: ``http://host:port`` (a trailing ``/v1`` is understood) or ``unix:/path/to/socket``.
        connect_timeout_s: for a connection to be made.
        api_key: sent with every request instead of the client's.
    """

    def __init__(self, url: str, *, connect_timeout_s: float = 10.0, api_key: str | None = None) -> None:
        self.url = url
        self._socket: str | None = None
        self._api_key = api_key
        if url.startswith("unix:"):
            self._socket, self._base = url.removeprefix("unix:"), "http://engine"
        else:
            self._base = url.rstrip("/").removesuffix("/v1")
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool; connections are made when they are needed."""
        connector: aiohttp.BaseConnector
        if self._socket is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=60)
        else:
            connector = aiohttp.UnixConnector(self._socket, limit=0, keepalive_timeout=_KEEPALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),  # what an engine sets is for one client, not for all
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, *, headers: Headers = (), body: bytes | None = None, own_key: bool = True
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yields the response when its headers are there. Leaving early closes the connection.

        Args:
            method: of HTTP.
            path: with its query, if any.
            headers: as they came.
            body: None for none.
            own_key: send our API key, if we have one; otherwise what the client may have sent.

        Raises:
            EngineUnreachable: no connection could be made.
            BackendError: the engine does not answer, or does not speak HTTP.
        """
        assert self._session is not None, "open() comes first"
        texts = [(name.decode("latin-1"), _text(value)) for name, value in headers]
        if self._api_key is not None and own_key:
            texts = [(name, value) for name, value in texts if name.lower() != "authorization"]
            texts.append(("Authorization", f"Bearer {self._api_key}"))
        try:
            url = yarl.URL(self._base + path, encoded=True)  # as it came: nothing is resolved or quoted anew
            response = await self._session.request(method, url, data=body, headers=texts, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineUnreachable(f"the engine cannot be reached ({type(error).__name__})") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendError(f"the engine does not answer ({type(error).__name__})") from error
        try:
            yield response
        except BaseException:
            response.close()  # the engine notices that nobody listens any more
            raise
        finally:
            response.release()

    async def page(self, path: str) -> bytes:
        """GET a page.

        Raises:
            BackendError: the engine did not answer with one.
        """
        try:
            async with asyncio.timeout(_QUESTION_S), self.request("GET", path) as response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendError(f"the engine did not answer {path} in full ({type(error).__name__})") from error
        if response.status != 200:
            raise BackendError(f"the engine answered {path} with status {response.status}")
        return payload

    async def json(self, path: str) -> Any:
        """GET a JSON document.

        Raises:
            BackendError: the engine did not answer with one.
        """
        payload = await self.page(path)
        try:
            return orjson.loads(payload)
        except orjson.JSONDecodeError:
            raise BackendError(f"the engine answered {path} with something that is not JSON") from None

    async def models(self) -> list[dict[str, Any]]:
        """The entries of the engine's /v1/models.

        Raises:
            BackendError: it has no such list.
        """
        listing = await self.json("/v1/models")
        entries = listing.get("data") if isinstance(listing, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
            raise BackendError("the engine answered /v1/models with something that is not a list of models")
        return entries

    async def healthy(self) -> bool:
        """Whether the engine says that it is ready on /health, or, where there is none, answers at all."""
        status = 0
        for path in ("/health", "/v1/models"):
            try:
                async with asyncio.timeout(_QUESTION_S), self.request("GET", path) as response:
                    status = response.status
            except (BackendError, TimeoutError):
                return False
            if status not in (404, 405):
                break
        return status < 500
