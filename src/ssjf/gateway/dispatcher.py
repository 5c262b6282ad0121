"""Who waits, who runs: the scheduling core under a real clock.

Law of this file: `pump` is synchronous. Nothing is awaited between a decision and the change of state that it asks
for, so there are no locks, and every accepted exchange ends in exactly one outcome.

Requests that may go to the same servers wait in one queue, a *lane*, in the order of one policy. Of lanes that share a
server, one whose head has waited beyond the starvation bound comes first, the longest wait before others; then the one
whose head has the best tier; and lanes that are equal in that take turns, for their keys must not be compared.

The dispatcher does not know HTTP, bodies or backends.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from math import ceil, inf

from ssjf.core.places.concurrency import Progress
from ssjf.core.places.servers import Server, Servers
from ssjf.core.priority import PriorityMap
from ssjf.core.scheduler import Scheduler
from ssjf.core.types import Job, Outcome, Prediction, Status
from ssjf.errors import QueueFull
from ssjf.forecast import Forecaster
from ssjf.gateway import clock as gateway_clock
from ssjf.gateway.exchange import Exchange, Lane
from ssjf.gateway.http.incoming import Incoming
from ssjf.gateway.shadow import Shadow
from ssjf.gateway.telemetry import Telemetry

_RETRY_SHARE = 0.1  # of the work that waits: when so much is done, it is worth trying again
_MIN_RETRY_S, _MAX_RETRY_S = 1, 60

Listener = Callable[["Exchange", Outcome, float], None]
"""Hears of each exchange that has ended, with its outcome and the time; must not raise."""


class Expired(Exception):
    """A request's deadline passed while it waited."""


class Unavailable(Exception):
    """No engine that could serve a request is in order, nor soon will be."""


class Dispatcher:
    """Drives one scheduler for each lane: requests come in, slots free up, predictions arrive late.

    Args:
        make_scheduler: a new one for a lane.
        forecaster: predicts those who must wait, and scores the others.
        telemetry: counts everything.
        shadow: hears of each finished request, to tell what another policy would have given.
        ordered_there: servers with a queue of their own that goes by priorities.
        serves_higher_first: whether such a server puts higher priorities first.
        max_live: how many requests of a tenant may wait or run at once, for those who are limited.
        max_waiting: requests that may wait, in all queues together.
        max_waiting_bytes: bodies of all accepted requests together.
        max_wait_s: the starvation bound of the schedulers, which holds between lanes as well.
        clock: the one of the requests' arrival times.
    """

    def __init__(
        self,
        make_scheduler: Callable[[Servers], Scheduler],
        forecaster: Forecaster,
        telemetry: Telemetry,
        shadow: Shadow | None = None,
        *,
        ordered_there: Collection[Server] = (),
        serves_higher_first: Callable[[Server], bool] = lambda _: False,
        max_live: Mapping[str, int] | None = None,
        max_waiting: float = inf,
        max_waiting_bytes: float = inf,
        max_wait_s: float | None = None,
        clock: Callable[[], float] = gateway_clock.now,
    ) -> None:
        self._make_scheduler = make_scheduler
        self._forecaster = forecaster
        self._telemetry = telemetry
        self._shadow = shadow
        self._ordered_there = ordered_there
        self._serves_higher_first = serves_higher_first
        self._max_live = dict(max_live or {})
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_wait_s = inf if max_wait_s is None else max_wait_s
        self._num_held = 0
        self._clock = clock
        self._num_bytes = 0
        self._live_of: dict[str, int] = {}
        self._lanes: dict[tuple[Server, ...], Lane] = {}
        self._live: dict[str, Exchange] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._retry: tuple[float, int] = (-inf, _MIN_RETRY_S)
        self.listeners: list[Listener] = []
        telemetry.watch(self)

    def submit(self, incoming: Incoming, servers: Sequence[Server]) -> Exchange:
        """Accept a request that may go to any of these servers.

        An idle slot is given at once, without a prediction: it matters only to those who must wait. Who waits has a
        place from the first instant, by the hint or else by the fallback, and moves when the prediction comes. A slot
        that frees up before then is not kept waiting for it. Only where the engine orders, a request is held until its
        prediction is there or its time is up, for its priority is given once.

        Raises:
            QueueFull: too many wait already, in all or of this tenant.
        """
        request = incoming.request
        lane = self._lane(tuple(servers))
        self._check_room(incoming, lane)
        if incoming.hint is not None:
            prediction = Prediction(incoming.hint, source="hint")
        else:
            prediction = self._forecaster.fallback(request)
        job = Job(request, prediction=prediction)
        lane.model.value(job)
        exchange = Exchange(incoming, job, lane, asyncio.get_running_loop().create_future())
        if lane.priorities is not None and incoming.hint is None:
            exchange.held = True
            self._num_held += 1
        else:
            lane.scheduler.add(job, self._clock())
        self._live[request.request_id] = exchange
        self._live_of[request.tenant] = self._live_of.get(request.tenant, 0) + 1
        self._num_bytes += len(incoming.body)
        self._idle.clear()
        self.pump()
        if job.status is Status.WAITING:
            exchange.decided_by = prediction
        if job.status is Status.WAITING or not incoming.stream:
            self._ask(exchange)
        if exchange.held:
            asyncio.get_running_loop().call_later(self._forecaster.budget_s, self._let_wait, exchange)
        return exchange

    def first_token(self, exchange: Exchange, now: float) -> None:
        """The first token of an admitted exchange has come.

        Only now a stream that never had to wait is predicted, to be scored when it ends: before, the predictor would
        take processor time from those who wait for their first token.
        """
        exchange.first_token_at = now
        self._ask(exchange)

    def pump(self) -> None:
        """Let in whom the schedulers let in, from one lane after the other where several wait."""
        lanes = [lane for lane in self._lanes.values() if lane.scheduler.waiting]
        if len(lanes) == 1:
            self._admit(lanes[0], None)
            return
        while lanes := [lane for lane in self._lanes.values() if lane.scheduler.waiting and lane.servers.fits()]:
            lane = min(lanes, key=self._urgency)  # of equals the first
            self._admit(lane, 1)
            self._lanes[lane.servers.servers] = self._lanes.pop(lane.servers.servers)  # now the last in turn

    def move(self, exchange: Exchange, tried: Sequence[Server]) -> bool:
        """An admitted exchange goes to another server; returns whether there is one that it has not tried."""
        now = self._clock()
        server = exchange.lane.servers.move(exchange.job, now, tried=tried)
        if server is None:
            return False
        self._placed(exchange, server, now)
        return True

    def put_back(self, exchange: Exchange) -> None:
        """An admitted exchange that nothing was sent of waits again, where it stood."""
        exchange.lane.scheduler.preempt(exchange.job.request.request_id, self._clock())
        exchange.admitted = asyncio.get_running_loop().create_future()
        self._ask(exchange)
        self.pump()

    def refuse_waiting(self, exchange: Exchange, error: Exception) -> None:
        """Tell an exchange that waits that it never will be admitted; whoever awaits that ends it."""
        if exchange.job.status is Status.WAITING and not exchange.admitted.done():
            exchange.admitted.set_exception(error)
            exchange.admitted.exception()  # seen: nobody may be left to await it

    def end(self, exchange: Exchange, outcome: Outcome) -> None:
        """The exchange is over; its slot or its place in the queue is free. Later calls change nothing."""
        if exchange.ended:
            return
        exchange.ended = True
        self._release(exchange)
        now = self._clock()
        job, scheduler = exchange.job, exchange.lane.scheduler
        request_id, tenant = job.request.request_id, job.request.tenant
        if request_id in scheduler.running and outcome is Outcome.COMPLETED:
            scheduler.finish(request_id, now)
        else:
            scheduler.abort(request_id, now)
        del self._live[request_id]
        self._num_bytes -= len(exchange.incoming.body)
        self._live_of[tenant] -= 1
        if not self._live_of[tenant]:
            del self._live_of[tenant]
        self._telemetry.ended(exchange, outcome, now)
        if outcome is Outcome.COMPLETED:
            self._learn(exchange, now)
        for listener in self.listeners:
            listener(exchange, outcome, now)
        self.pump()
        if not self._live:
            self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when nobody waits or runs."""
        await self._idle.wait()

    @property
    def num_live(self) -> int:
        """Accepted requests that have not ended."""
        return len(self._live)

    @property
    def live(self) -> Sequence[Exchange]:
        """Accepted requests that have not ended, in the order of acceptance."""
        return list(self._live.values())

    @property
    def lanes(self) -> Sequence[Lane]:
        """All queues so far."""
        return list(self._lanes.values())

    def has_backlog(self, server: Server) -> bool:
        """Whether somebody waits who may go to this server."""
        return any(lane.scheduler.waiting and server in lane.servers.servers for lane in self._lanes.values())

    def progress(self, server: Server) -> Progress:
        """What has come of the requests that this server was given."""
        now = self._clock()
        num_started, unstarted_s = 0, list[float]()
        for place, request_id in enumerate(server.request_ids, start=1):
            exchange = self._live[request_id]
            if exchange.first_token_at is not None:
                num_started = place
                unstarted_s.clear()
            elif exchange.incoming.stream:
                unstarted_s.append(now - exchange.dispatched_at)
        return Progress(num_started, tuple(unstarted_s))

    def retry_after_s(self) -> int:
        """Whole seconds after which it is worth trying again: until a part of what waits has been given out."""
        now = self._clock()
        if now - self._retry[0] > _MIN_RETRY_S:  # under a flood nobody counts for each refusal
            work_s = dict.fromkeys(self._lanes.values(), 0.0)
            for exchange in self._live.values():
                if exchange.job.status is Status.WAITING:
                    work_s[exchange.lane] += exchange.job.predicted_service_s
            backlog_s = max((work / max(lane.servers.total, 1) for lane, work in work_s.items()), default=0.0)
            self._retry = now, min(max(ceil(_RETRY_SHARE * backlog_s), _MIN_RETRY_S), _MAX_RETRY_S)
        return self._retry[1]

    def _ask(self, exchange: Exchange) -> None:
        """Have it predicted, once, unless its client has told the length."""
        if not exchange.asked and exchange.incoming.hint is None:
            exchange.asked = True
            self._forecaster.ask(exchange.job.request, lambda answer: self._predicted(exchange, answer))

    def _lane(self, servers: tuple[Server, ...]) -> Lane:
        if servers not in self._lanes:
            group = Servers(servers)
            scheduler = self._make_scheduler(group)
            lane = Lane(group, scheduler)
            if any(server in self._ordered_there for server in servers):
                lane.priorities = self._mapping(scheduler)
            self._lanes[servers] = lane
            self._telemetry.watch_lane(lane)
        return self._lanes[servers]

    def _mapping(self, scheduler: Scheduler) -> Callable[[Job, Server, float], int | None]:
        maps = {higher: PriorityMap(scheduler.policy, higher_first=higher) for higher in (False, True)}

        def priority(job: Job, server: Server, now: float) -> int | None:
            if server not in self._ordered_there:
                return None
            return maps[self._serves_higher_first(server)].priority(job, now)

        return priority

    def _check_room(self, incoming: Incoming, lane: Lane) -> None:
        num_waiting = self._num_held + sum(len(other.scheduler.waiting) for other in self._lanes.values())
        num_free = max(lane.servers.total - lane.servers.taken, 0)  # whoever gets one of these does not wait
        if num_waiting >= self._max_waiting + num_free:
            raise QueueFull(f"{num_waiting} requests wait already")
        if self._num_bytes and self._num_bytes + len(incoming.body) > self._max_waiting_bytes:
            raise QueueFull("the requests that wait fill the memory set aside for them")
        tenant = incoming.request.tenant
        limit = self._max_live.get(tenant)
        if limit is not None and self._live_of.get(tenant, 0) >= limit:
            raise QueueFull(f"{limit} requests of tenant {tenant!r} wait or run already")

    def _urgency(self, lane: Lane) -> tuple[float, int]:
        """What puts a lane before others, lower first: when its head arrived, if it is overdue; then its tier."""
        now = self._clock()
        head = lane.scheduler.waiting.peek(now)
        assert head is not None, "somebody waits"
        arrival = head.request.arrival_time
        return (arrival if now - arrival >= self._max_wait_s else inf), head.request.tier

    def _admit(self, lane: Lane, limit: int | None) -> None:
        now = self._clock()
        admitted = lane.scheduler.admit(now, limit)
        for job in admitted:
            exchange = self._live[job.request.request_id]
            self._placed(exchange, lane.servers.server_of(job), now)
            self._telemetry.started(exchange.queued_s)
            if not exchange.admitted.done():  # cancelled when its client has just left
                exchange.admitted.set_result(None)

    def _placed(self, exchange: Exchange, server: Server, now: float) -> None:
        exchange.server = server
        exchange.in_flight = server.num_running
        exchange.dispatched_at = now
        if exchange.lane.priorities is not None:
            exchange.priority = exchange.lane.priorities(exchange.job, server, now)

    def _let_wait(self, exchange: Exchange) -> None:
        """A request that was held for its prediction is held no longer."""
        if not exchange.held or exchange.ended:
            return
        self._release(exchange)
        exchange.lane.scheduler.add(exchange.job, self._clock())
        self.pump()

    def _release(self, exchange: Exchange) -> None:
        self._num_held -= exchange.held
        exchange.held = False

    def _predicted(self, exchange: Exchange, prediction: Prediction) -> None:
        prediction = _capped(prediction, exchange.job.request.max_tokens)
        exchange.job.prediction = prediction
        if exchange.job.status is not Status.WAITING:
            return  # scored when it ends
        exchange.decided_by = prediction
        self._value(exchange)
        self._let_wait(exchange)

    def _value(self, exchange: Exchange) -> None:
        """Give a waiting exchange the place that its prediction has under the service model in force."""
        exchange.lane.model.value(exchange.job)
        exchange.lane.scheduler.reprioritize(exchange.job.request.request_id, self._clock())

    def _learn(self, exchange: Exchange, now: float) -> None:
        job, output, lane = exchange.job, exchange.num_output_tokens, exchange.lane
        if output is None or job.started_at is None or not exchange.incoming.single:
            return
        if lane.learn(exchange, now):
            for other in self._live.values():
                if other.lane is lane and other.job.status is Status.WAITING:
                    self._value(other)
        self._forecaster.observe(job.request, output)
        if self._shadow is not None:
            self._shadow.add(job, now - exchange.dispatched_at, lane.model)


def _capped(prediction: Prediction, max_tokens: int) -> Prediction:
    """No answer is longer than its client's cap; 0 is no cap."""
    cap = float(max_tokens)
    below = tuple((level, tokens) for level, tokens in prediction.quantiles if tokens < cap)
    if not cap or (prediction.num_output_tokens <= cap and len(below) == len(prediction.quantiles)):
        return prediction
    quantiles = below if len(below) == len(prediction.quantiles) else (*below, (1.0, cap))
    return Prediction(min(prediction.num_output_tokens, cap), quantiles, prediction.source)
