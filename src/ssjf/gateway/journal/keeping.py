"""Between the gateway and its journal: each exchange into the log, and now and then what the predictor has learned."""

import asyncio
import contextlib
import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Self

from ssjf.core.types import Outcome
from ssjf.forecast import Forecaster
from ssjf.gateway.dispatcher import Listener
from ssjf.gateway.exchange import Exchange
from ssjf.gateway.journal.entry import entry_of
from ssjf.gateway.journal.memory import Learner, remember, snapshot, to_bytes
from ssjf.gateway.journal.store import Journal
from ssjf.predict.artefact import CARD
from ssjf.predict.base import Predictor

_log = logging.getLogger(__name__)
_EVERY_S = 0.7  # between two looks whether something was learned; with the journal's own delay, within a second
_LAST_S = 5.0  # for the last lessons, at the end


def log_to(journal: Journal, policy: str) -> Listener:
    """A listener of the dispatcher that logs each exchange."""

    def listen(exchange: Exchange, outcome: Outcome, now: float) -> None:
        journal.record(entry_of(exchange, outcome, now, policy=policy), exchange.job.request.prompt)

    return listen


def name_of(predictor: str) -> str:
    """Under which what this predictor learns is kept: another artefact in the same folder is another predictor."""
    card = Path(predictor) / CARD
    digest = hashlib.sha256(card.read_bytes()).hexdigest()[:16] if card.is_file() else ""
    return f"{predictor}#{digest}"


def recall(journal: Journal, predictor: Predictor, name: str) -> None:
    """Go on from what an earlier process has learned, if there is anything that fits."""
    kept = journal.learned(name_of(name))
    if kept is not None and isinstance(predictor, Learner) and remember(predictor, kept):
        _log.info("the predictor goes on from what it had learned")


class Keeper:
    """Keeps what the predictor learns, while the block lasts.

    Args:
        journal: where.
        forecaster: has the predictor.
        name: of the predictor in the settings.
    """

    def __init__(self, journal: Journal, forecaster: Forecaster, name: str) -> None:
        self._journal = journal
        self._forecaster = forecaster
        self._name = name_of(name)
        self._kept = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Keep the last lessons, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # a predictor that hangs is not to keep the process
            async with asyncio.timeout(_LAST_S):
                await self._keep()

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._keep()

    async def _keep(self) -> None:
        learned = self._forecaster.num_learned
        if learned == self._kept:
            return
        copy = await self._forecaster.with_predictor(_copy)
        if copy is not None:
            state = await asyncio.get_running_loop().run_in_executor(None, partial(to_bytes, *copy))
            self._journal.keep(self._name, state)
        self._kept = learned


def _copy(predictor: Predictor) -> "tuple[dict, dict] | None":  # type: ignore[type-arg]
    """In the predictor's thread."""
    if not isinstance(predictor, Learner):
        return None
    try:
        return snapshot(predictor)
    except Exception:  # noqa: BLE001 - a predictor that cannot be kept may still predict
        _log.exception("what the predictor has learned cannot be kept")
        return None
