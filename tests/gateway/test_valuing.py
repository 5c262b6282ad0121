"""Waiting requests are valued by their whole predicted distribution, and trust in predictions is talked about."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from ssjf.core.service import LinearServiceModel, MeasuredServiceModel
from ssjf.core.types import Prediction, Request
from ssjf.forecast import Forecaster
from ssjf.gateway.exchange import Exchange
from tests.gateway.conftest import MakeStack, WordCount
from tests.gateway.test_dispatcher import Bench

SPREAD = ((0.1, 50.0), (0.5, 100.0), (0.9, 400.0))


def assert_valued_by(exchange: Exchange, model: LinearServiceModel) -> None:
    job = exchange.job
    assert job.prediction is not None
    tokens = job.request.num_prompt_tokens
    assert job.predicted_service_s == model.seconds(tokens, job.prediction.num_output_tokens)
    assert job.service_quantiles == tuple((q, model.seconds(tokens, at)) for q, at in job.prediction.quantiles)


async def test_a_prediction_that_comes_late_brings_its_quantiles_and_the_measured_speed_revalues_them() -> None:
    bench = Bench(policy="gittins")
    first = bench.submit("first", hint=10)
    waits = bench.submit("waits", hint=10)
    assert waits.job.service_quantiles == ()
    bench.dispatcher._predicted(waits, Prediction(120.0, SPREAD))
    bench.submit("third", hint=1000)
    before = MeasuredServiceModel().model()
    assert_valued_by(waits, before)
    bench.now = 1.0
    third = bench.submit("fourth", hint=5)
    bench.dispatcher._predicted(third, Prediction(5.0, ((0.5, 5.0), (0.9, 9.0))))
    bench.finish(first, num_output_tokens=5)  # ten times as slow as was assumed
    assert bench.dispatcher.lanes[0].model.per_output_token_s > 2 * before.per_output_token_s
    for exchange in bench.dispatcher._live.values():
        if not exchange.admitted.done():
            assert_valued_by(exchange, bench.dispatcher.lanes[0].model)


async def test_by_gittins_the_lower_mean_goes_first_and_not_the_lower_point() -> None:
    bench = Bench(policy="gittins")
    first = bench.submit("first", hint=10)
    gamble, sure = bench.submit("gamble", hint=10), bench.submit("sure", hint=10)
    bench.dispatcher._predicted(gamble, Prediction(80.0, ((0.1, 60.0), (0.5, 80.0), (0.9, 2000.0))))
    bench.dispatcher._predicted(sure, Prediction(100.0, ((0.1, 90.0), (0.5, 100.0), (0.9, 110.0))))
    bench.finish(first)
    assert sure.admitted.done()
    assert not gamble.admitted.done()


@pytest.mark.parametrize(
    ("max_tokens", "quantiles"),
    [(0, SPREAD), (500, SPREAD), (300, (*SPREAD[:2], (1.0, 300.0))), (40, ((1.0, 40.0),))],
)
async def test_no_quantile_lies_beyond_the_clients_cap(
    max_tokens: int, quantiles: tuple[tuple[float, float], ...]
) -> None:
    bench = Bench()
    exchange = bench.submit("capped", hint=10)
    exchange.job.request = Request(request_id="capped", arrival_time=0.0, max_tokens=max_tokens)
    bench.dispatcher._predicted(exchange, Prediction(120.0, SPREAD, "p@1"))
    assert exchange.job.prediction == Prediction(120.0 if max_tokens != 40 else 40.0, quantiles, "p@1")


NONSENSE = [
    ((0.5, 10.0), (0.4, 20.0)),
    ((0.5, 10.0), (0.9, 5.0)),
    ((0.0, 1.0),),
    ((0.5, 1.0), (1.1, 2.0)),
    ((0.5, float("nan")),),
    ((float("nan"), 1.0),),
    ((0.5, float("inf")),),
    ((0.5, -1.0),),
]


class Tells(WordCount):
    def __init__(self, quantiles: Sequence[tuple[tuple[float, float], ...]]) -> None:
        super().__init__()
        self.quantiles = list(quantiles)

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(5.0, self.quantiles.pop(0)) for _ in requests]


async def test_quantiles_that_are_none_are_not_believed() -> None:
    failures: list[str] = []
    answers: asyncio.Queue[Prediction] = asyncio.Queue()
    forecaster = Forecaster(Tells([*NONSENSE, ((0.5, 8.0), (0.9, 8.0))]), budget_s=10, on_failure=failures.append)
    for index in range(len(NONSENSE) + 1):
        forecaster.ask(Request(request_id=str(index), arrival_time=0.0), answers.put_nowait)
    assert (await answers.get()).quantiles == ((0.5, 8.0), (0.9, 8.0))
    assert failures == ["error"] * len(NONSENSE)
    await forecaster.close()


async def test_the_log_tells_once_when_trust_is_gained_lost_and_regained(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(policy="auto")
    number = 0

    def complete_some(count: int, sign: int) -> list[tuple[str, str]]:
        nonlocal number
        caplog.clear()
        for _ in range(count):
            number += 1
            service_s = 1.0 + number * 7 % 10
            exchange = bench.submit(str(number), hint=20 + sign * service_s)
            bench.now += service_s
            bench.finish(exchange)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    with caplog.at_level(logging.INFO, logger="ssjf.gateway.telemetry"):
        [(level, message)] = complete_some(300, sign=1)
        assert level == "INFO"
        assert "are trusted" in message
        assert complete_some(300, sign=1) == []
        [(level, message)] = complete_some(600, sign=-1)
        assert level == "WARNING"
        assert "lost trust" in message
        assert complete_some(100, sign=-1) == []
        [(level, _)] = complete_some(600, sign=1)
        assert level == "INFO"


async def test_policies_without_trust_have_nothing_to_tell(
    make_stack: MakeStack, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_stack(policy="ssjf", automatic=True) as stack:
        with caplog.at_level(logging.INFO, logger="ssjf.gateway.telemetry"):
            await asyncio.gather(*(stack.chat(f"request {i}") for i in range(5)))
    assert not [record for record in caplog.records if record.name == "ssjf.gateway.telemetry"]
