"""Prediction never fails a request and never holds one up."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence

from ssjf.core.types import Prediction, Request
from ssjf.forecast import Forecaster
from tests.gateway.conftest import MakeStack, WordCount


class Broken:
    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        raise RuntimeError("no idea")

    def observe(self, request: Request, num_output_tokens: int) -> None:
        raise RuntimeError("nor here")


class Nonsense(WordCount):
    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        return [Prediction(float("nan")) for _ in requests]


class Hanging(WordCount):
    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        self.release.wait(30)
        return super().predict(requests)


async def test_a_predictor_that_raises_costs_nobody_anything(make_stack: MakeStack) -> None:
    # with time enough, so that on a slow machine its failures do not count as late
    async with make_stack(predictor=Broken(), predict_budget_ms=60_000, automatic=True) as stack:
        answers = await asyncio.gather(*(stack.chat(f"request {i}") for i in range(20)))
        assert [status for status, _ in answers] == [200] * 20
        await stack.settled(requests_running=0)
        while (await stack.metrics()).get('ssjf_prediction_fallbacks_total{reason="error"}', 0) == 0:
            pass


async def test_nonsense_is_not_believed(make_stack: MakeStack) -> None:
    async with make_stack(predictor=Nonsense()) as stack:
        first = stack.chat("first")
        await stack.engine.call(1)
        second = stack.chat("second")
        await stack.settled(requests_waiting=1)
        stack.engine.calls[0].finish.set()
        (await stack.engine.call(2)).finish.set()
        assert [(await first)[0], (await second)[0]] == [200, 200]


async def test_a_predictor_that_hangs_is_not_waited_for(make_stack: MakeStack) -> None:
    predictor = Hanging()
    async with make_stack(predictor=predictor, predict_budget_ms=1, automatic=True) as stack:
        answers = await asyncio.gather(*(stack.chat(f"request {i}") for i in range(5)))
        assert [status for status, _ in answers] == [200] * 5
        await stack.settled(requests_running=0)
        while (await stack.metrics()).get('ssjf_prediction_fallbacks_total{reason="late"}', 0) == 0:
            pass
        predictor.release.set()


async def test_an_answer_that_comes_late_still_helps_who_waits(make_stack: MakeStack) -> None:
    predictor = Hanging()
    async with make_stack(predictor=predictor, predict_budget_ms=0) as stack:
        sent = [stack.chat("runs at once")]
        await stack.engine.call(1)
        sent += [stack.chat("a long prompt of many words"), stack.chat("short")]
        await stack.settled(requests_waiting=2, **{'prediction_fallbacks_total{reason="late"}': 3})
        predictor.release.set()
        await stack.all_predicted()
        for number, prompt in enumerate(["runs at once", "short", "a long prompt of many words"], start=1):
            call = await stack.engine.call(number)
            assert call.prompt == prompt
            call.finish.set()
        await asyncio.gather(*sent)


class Choosy(WordCount):
    """Fails on one prompt, and cannot learn."""

    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        if any(request.prompt == "poison" for request in requests):
            raise ValueError("poison")
        return super().predict(requests)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        raise ValueError("never learns")


async def test_one_prompt_that_the_predictor_chokes_on_costs_the_others_nothing() -> None:
    failures: list[str] = []
    forecaster = Forecaster(Choosy(), budget_s=10, on_failure=failures.append)
    answers: asyncio.Queue[float] = asyncio.Queue()
    for prompt in ("one", "poison", "two words"):
        request = Request(request_id=prompt, prompt=prompt, arrival_time=0.0)
        forecaster.observe(request, 1)
        forecaster.ask(request, lambda prediction: answers.put_nowait(prediction.num_output_tokens))
    assert [await answers.get(), await answers.get()] == [1, 2]
    assert failures == ["error"]
    await forecaster.close()


async def test_a_predictor_that_hangs_collects_no_prompts_without_end() -> None:
    predictor = Hanging()
    failures: list[str] = []
    forecaster = Forecaster(predictor, budget_s=10, on_failure=failures.append)
    request = Request(request_id="a", arrival_time=0.0)
    for _ in range(5000):
        forecaster.ask(request, lambda _: None)
        forecaster.observe(request, 1)
    assert failures
    assert len(forecaster._questions) + len(forecaster._lessons) + len(failures) < 5000 + 1001
    predictor.release.set()
    await forecaster.close()


HANGS_FOR_EVER = """
import asyncio, threading
from ssjf.core.types import Request
from ssjf.forecast import Forecaster
class Hanging:
    def predict(self, requests):
        started.set()
        threading.Event().wait()
started = threading.Event()
async def main():
    forecaster = Forecaster(Hanging(), budget_s=0, on_failure=lambda _: None)
    forecaster.ask(Request(request_id="a", arrival_time=0.0), print)
    while not started.is_set():
        await asyncio.sleep(0)
    await forecaster.close()
asyncio.run(main())
"""


def test_a_predictor_that_hangs_does_not_keep_the_process_from_ending() -> None:
    subprocess.run([sys.executable, "-c", HANGS_FOR_EVER], check=True, timeout=60)


async def test_the_fallback_is_the_mean_of_what_was_seen_within_the_clients_cap() -> None:
    forecaster = Forecaster(WordCount(), budget_s=1, on_failure=lambda _: None)
    request = Request(request_id="a", arrival_time=0.0, max_tokens=50)
    assert forecaster.fallback(request).num_output_tokens == 50
    forecaster.observe(request, 20)
    assert forecaster.fallback(request).num_output_tokens == 20
    forecaster.observe(request, 1000)
    assert 20 < forecaster.fallback(request).num_output_tokens <= 50
    await forecaster.close()
