"""The engines behind a gateway: who serves which model, who is in order, and how much each takes at once.

An engine that fails is left out and asked for its health until it is back; how much it runs at once is read from it or
learned. The pool does not know requests, queues or policies: it only opens and closes servers and sets their places.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any
from urllib.parse import urlsplit

from ssjf.config import BackendSettings, Mode, NumSlots
from ssjf.core.places.concurrency import ConcurrencyLimit, Progress
from ssjf.core.places.servers import Server
from ssjf.errors import BackendError, ConfigError, RequestError
from ssjf.gateway import clock
from ssjf.gateway.backends.dialects import UNKNOWN, Dialect, Load, count, recognise
from ssjf.gateway.backends.http import HTTPBackend

_log = logging.getLogger(__name__)
_LOOK_S = 0.2  # between two looks at an engine's own queue
_CHECK_S = 5.0  # between two checks of the health of an engine that is in order
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 10.0
_MAX_FAILURES = 3  # in a row, after which an engine is left out while there are others
_GRACE_S = 30.0  # that requests wait for an engine to come back which has served before, or to be started after all
_MODELS_FRESH_S = 30.0
_BRIEFLY_S = 0.25
_MODELS_AGAIN_S = 1.0  # a model that is not on the list may have been loaded since


@dataclass(eq=False)
class Member:
    """One engine.

    Attributes:
        http: how to reach it.
        server: what the scheduling core sees of it.
        mode: order requests before it, or tell it priorities.
        dialect: its kind.
        limit: learns how much it runs at once; None where that was given or read.
        load: what it last counted itself; None where it does not, or is not asked.
        fixed_models: those that the settings name.
        listing: its own list of models; None before it was had.
        supervised: it is our child, and whoever watches that opens and closes it.
        was_up: it has been reached at least once.
        closed_at: since when it is left out; None while it is not.
        unstartable_since: since when attempts to start it fail; None where none has failed.
        failures: in a row.
    """

    http: HTTPBackend
    server: Server
    mode: Mode
    dialect: Dialect = UNKNOWN
    limit: ConcurrencyLimit | None = None
    load: Load | None = None
    fixed_models: frozenset[str] = frozenset()
    listing: list[dict[str, Any]] | None = None
    listed_at: float = -inf
    supervised: bool = False
    was_up: bool = False
    closed_at: float | None = None
    unstartable_since: float | None = None
    failures: int = 0
    asking: asyncio.Task[None] | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For metrics and logs."""
        return self.server.name

    def serves(self, model: str) -> bool | None:
        """Whether it serves a model of this name; None where nobody knows."""
        if self.fixed_models:
            return model in self.fixed_models
        if any(entry["id"] == model for entry in self.listing or ()):
            return True
        return None if self.listing is None or self.dialect.any_model else False

    def hopeless_at(self) -> float:
        """When those who wait for it need not wait any longer; infinite while it is open, or loads its model."""
        if self.closed_at is None:
            return inf
        if self.supervised:
            return inf if self.unstartable_since is None else self.unstartable_since + _GRACE_S
        return self.closed_at + (_GRACE_S if self.was_up else 0.0)


class Pool:
    """All engines.

    Args:
        members: at least one; made by `make_member`.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)
        self.follow(lambda: None, lambda _: False, lambda _: Progress(0, ()))
        self._of = {member.server: member for member in members}

    def follow(
        self,
        on_change: Callable[[], None],
        has_backlog: Callable[[Server], bool],
        progress: Callable[[Server], Progress],
    ) -> None:
        """From whom to hear of the requests, and whom to tell of places.

        Args:
            on_change: called when an engine is back or takes more than before.
            has_backlog: whether somebody waits for a server.
            progress: what has come of those that it was given.
        """
        self._on_change, self._has_backlog, self._progress = on_change, has_backlog, progress

    async def start(self) -> None:
        """Get to know the engines, and watch them from now on. None has to be up."""
        for member in self.members:
            await member.http.open()
        await asyncio.gather(*(self.meet(member) for member in self.members if not member.supervised))
        for member in self.members:
            if not member.supervised:
                member.tasks.append(asyncio.create_task(self._watch(member)))
            if member.limit is not None:
                member.tasks.append(asyncio.create_task(self._count(member)))

    async def close(self) -> None:
        """Close all connections."""
        tasks = [task for m in self.members for task in (*m.tasks, *([] if m.asking is None else [m.asking]))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self.members:
            await member.http.close()

    def of(self, server: Server) -> Member:
        """The engine that a server stands for."""
        return self._of[server]

    # --- models -----------------------------------------------------------------------------------------------------
    async def models(self, *, max_age_s: float = _MODELS_FRESH_S) -> list[dict[str, Any]]:
        """The models of all engines that can tell, each name once.

        Raises:
            BackendError: none can tell.
        """
        await asyncio.gather(*(self._list(member, max_age_s) for member in self.members))
        if all(member.listing is None and not member.fixed_models for member in self.members):
            raise BackendError("no engine tells which models it has")
        merged: dict[str, dict[str, Any]] = {}
        for member in self.members:
            listing = member.listing or []
            if member.fixed_models:
                known = {entry["id"]: entry for entry in listing}
                listing = [known.get(name, {"id": name, "object": "model"}) for name in sorted(member.fixed_models)]
            for entry in listing:
                merged.setdefault(str(entry["id"]), entry)
        return list(merged.values())

    async def servers_for(self, model: str) -> tuple[Server, ...]:
        """The servers that a request for this model may go to; "" leaves the choice to the engine.

        Where several may, those that list it come before those that might. A single engine that no settings name models
        for says itself what it does not have.

        Raises:
            RequestError: no engine has it.
        """
        if not model or (len(self.members) == 1 and not self.members[0].fixed_models):
            return tuple(member.server for member in self.members)
        if found := self._listing(model):  # `_watch` keeps the lists fresh: nobody waits for that
            return found
        possible = tuple(member.server for member in self.members if member.serves(model) is None)
        with contextlib.suppress(TimeoutError):
            # who would be served anyway does not wait long for what may be new
            async with asyncio.timeout(_BRIEFLY_S if possible else None):
                again = [self._list(member, _MODELS_AGAIN_S) for member in self.members if member.listing is not None]
                await asyncio.gather(*again)
        if servers := self._listing(model) or possible:
            return servers
        known = sorted(
            {str(entry["id"]) for m in self.members for entry in m.listing or ()}.union(
                *(m.fixed_models for m in self.members)
            )
        )
        raise RequestError(
            f"the model {model!r} does not exist; known: {', '.join(known)}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def _listing(self, model: str) -> tuple[Server, ...]:
        """The servers of engines that are known to have the model."""
        return tuple(member.server for member in self.members if member.serves(model))

    async def _list(self, member: Member, max_age_s: float) -> None:
        if clock.now() - member.listed_at <= max_age_s or not member.server.open:
            return
        if member.asking is None or member.asking.done():  # all who ask meanwhile await the same answer
            member.asking = asyncio.create_task(self._ask(member))
        await asyncio.shield(member.asking)

    async def _ask(self, member: Member) -> None:
        with contextlib.suppress(BackendError):
            member.listing = await member.http.models()
        member.listed_at = clock.now()

    # --- health -----------------------------------------------------------------------------------------------------
    def served(self, member: Member) -> None:
        """The engine has answered properly."""
        member.failures = 0
        member.was_up = True

    def failed(self, member: Member, *, unreachable: bool) -> None:
        """The engine could not be reached, or has broken off or answered nonsense."""
        member.failures += 1
        others = any(other.server.open for other in self.members if other is not member)
        if unreachable or (others and member.failures >= _MAX_FAILURES):
            self.shut(member)

    def shut(self, member: Member) -> None:
        """Leave the engine out until it is back."""
        if member.closed_at is None:
            member.server.open = False
            member.closed_at = clock.now()
            _log.warning("engine %s is left out until it is healthy", member.name)

    def unstartable(self, member: Member) -> None:
        """An attempt to start the engine, which is our child, has failed."""
        if member.unstartable_since is None:
            member.unstartable_since = clock.now()

    def reopen(self, member: Member) -> None:
        """The engine is back."""
        member.failures = 0
        member.was_up = True
        if member.closed_at is not None:
            member.server.open = True
            member.closed_at = member.unstartable_since = None
            _log.info("engine %s is back", member.name)
            self._on_change()

    async def _watch(self, member: Member) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            await asyncio.sleep(_CHECK_S if member.closed_at is None else backoff_s)
            healthy = await member.http.healthy()
            if healthy and member.closed_at is not None:
                await self.meet(member)  # it may be another one
                self.reopen(member)
            elif not healthy and member.closed_at is None:
                # an engine may be too busy to say that it is well, but then its answers come
                self.failed(member, unreachable=member.server.num_running == 0)
            if healthy:
                await self._list(member, _MODELS_FRESH_S)
            backoff_s = _FIRST_BACKOFF_S if member.closed_at is None else min(2 * backoff_s, _LAST_BACKOFF_S)

    async def meet(self, member: Member) -> None:
        """Learn what kind of engine it is, and how much it takes where it tells."""
        member.listed_at = -inf
        if not await member.http.healthy():
            _log.warning("engine %s does not answer yet", member.name)
            self.shut(member)
            return
        member.was_up = True
        await self._list(member, 0.0)
        member.dialect, told = await recognise(member.http)
        _log.info("engine %s: %s", member.name, member.dialect.name)
        if member.mode == "priority" and member.dialect.priority is None:
            _log.warning("engine %s is not known to heed priorities; its own order may stay", member.name)
        if member.limit is not None and told is not None:
            member.limit.told(told)
            member.server.slots = told
            _log.info("engine %s says that it works on %d requests at once", member.name, told)

    # --- how much it takes ------------------------------------------------------------------------------------------
    def first_token(self, member: Member, seconds: float, *, in_flight: int) -> None:
        """A first token came so long after dispatch, when so many were in flight."""
        if member.limit is not None:
            member.limit.first_token(seconds, in_flight=in_flight, now=clock.now())

    def answered(self, member: Member, num_tokens: int, seconds: float, *, in_flight: int) -> None:
        """A whole answer came so long after dispatch, when so many were in flight."""
        if member.limit is not None and not member.dialect.queued:
            backlog = self._has_backlog(member.server)
            member.limit.answered(
                num_tokens=num_tokens, seconds=seconds, in_flight=in_flight, backlog=backlog, now=clock.now()
            )
            self._set_places(member)

    async def _count(self, member: Member) -> None:
        """Look at the engine's own queue now and then, while it works, or at what it does with what it was given."""
        assert member.limit is not None
        while True:
            await asyncio.sleep(_LOOK_S)
            server = member.server
            in_flight = server.num_running
            if not in_flight or not server.open:
                continue
            backlog, now = self._has_backlog(server), clock.now()
            member.load = load = await count(member.http, member.dialect)
            if load is not None:
                member.limit.counted(num_queued=load.num_queued, in_flight=in_flight, backlog=backlog, now=now)
            else:
                member.limit.looked(self._progress(server), in_flight=in_flight, backlog=backlog, now=now)
            self._set_places(member)

    def _set_places(self, member: Member) -> None:
        assert member.limit is not None
        before, member.server.slots = member.server.slots, member.limit.limit
        if member.server.slots != before:
            _log.debug("engine %s: %d places", member.name, member.server.slots)
        if member.server.slots > before:
            self._on_change()


def make_member(
    settings: BackendSettings,
    *,
    slots: NumSlots,
    mode: Mode,
    connect_timeout_s: float,
    max_in_flight: int,
    supervised: bool,
) -> Member:
    """An engine from its settings; the gateway's stand in for those that it has not.

    Raises:
        ConfigError: its URL is none, or the variable for its API key is not set.
    """
    api_key = None
    if settings.api_key_env is not None:
        api_key = os.environ.get(settings.api_key_env)
        if not api_key:
            raise ConfigError(f"backend {settings.url}: environment variable {settings.api_key_env} is not set")
    mode = settings.mode or mode
    wanted = slots if settings.slots is None else settings.slots
    limit = ConcurrencyLimit() if wanted == "auto" and mode == "hold" else None
    # in priority mode the engine's queue is in our order: all may go in
    places = max(max_in_flight, 1) if mode == "priority" else ConcurrencyLimit().limit if wanted == "auto" else wanted
    http = HTTPBackend(settings.url, connect_timeout_s=connect_timeout_s, api_key=api_key)
    name = settings.name or urlsplit(settings.url).netloc or "engine"
    return Member(
        http,
        Server(name, places),
        mode,
        limit=limit,
        fixed_models=frozenset(settings.models),
        supervised=supervised,
    )
