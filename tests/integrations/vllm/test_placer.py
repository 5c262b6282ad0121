"""Priorities from predictions, and what is learned from requests that end."""

from collections.abc import Sequence

import pytest

from ssjf.core.policies import FCFS, SSJF, Auto, AutoStatic
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Prediction, Request
from ssjf.integrations.vllm.placer import Placer
from ssjf.integrations.vllm.tokens import TokenPredictor, as_words

A_SECOND_A_TOKEN = LinearServiceModel(0.0, 0.0, 1.0)


def _request(request_id: str, *, arrival: float = 0.0, max_tokens: int = 0) -> Request:
    return Request(request_id=request_id, num_prompt_tokens=10, arrival_time=arrival, max_tokens=max_tokens)


def test_a_prediction_beyond_the_cap_counts_as_the_cap() -> None:
    placer = Placer(SSJF(), service=A_SECOND_A_TOKEN, num_slots=1)
    prediction = Prediction(90.0, ((0.1, 20.0), (0.9, 200.0)))
    capped = placer.place(_request("a", max_tokens=50), prediction)
    assert capped == placer.place(_request("b"), Prediction(50.0))
    assert placer.place(_request("c"), prediction) > capped


def test_the_service_model_is_measured_where_none_is_given() -> None:
    placer = Placer(SSJF(), service=None, num_slots=1)
    before = placer.place(_request("probe"), Prediction(100.0))
    for index in range(300):  # half a second a token, instead of the prior's 20 ms
        placer.place(_request(f"{index}"), Prediction(100.0))
        placer.started(f"{index}", 0.0)
        placer.finished(f"{index}", 50.0, num_output_tokens=101, prefill_s=0.0)
    after = placer.place(_request("later"), Prediction(100.0))
    assert 15 < after / before < 30


def test_a_policy_that_learns_trusts_good_predictions_after_a_while() -> None:
    policy = AutoStatic()
    placer = Placer(policy, service=A_SECOND_A_TOKEN, num_slots=1)
    now = 0.0
    for index in range(200):
        tokens = 5 + 37 * index % 100
        placer.place(_request(f"{index}", arrival=now), Prediction(float(tokens)))
        placer.started(f"{index}", now + 30)
        now += tokens
        placer.finished(f"{index}", now + 30, num_output_tokens=tokens, prefill_s=None)
    assert policy.trust == 1.0
    late = now + 100
    short = placer.place(_request("short", arrival=late), Prediction(5.0))
    long = placer.place(_request("long", arrival=late), Prediction(500.0))
    assert short < long


def test_a_request_that_was_given_up_is_forgotten_without_a_lesson() -> None:
    policy = AutoStatic()
    placer = Placer(policy, service=None, num_slots=1)
    placer.place(_request("a"), Prediction(5.0))
    assert "a" in placer
    placer.started("a", 1.0)
    placer.started("a", 9.0)
    placer.forget("a")
    placer.forget("a")
    placer.started("a", 2.0)
    assert "a" not in placer
    assert policy.state()["p99_wait_s"] == 1.0


def test_what_was_given_up_while_it_ran_has_ended_for_the_policy_too() -> None:
    policy = Auto()
    placer = Placer(policy, service=A_SECOND_A_TOKEN, num_slots=2)
    now = 0.0
    for number in range(400):
        name = f"{number}"
        placer.place(_request(name, arrival=now), Prediction(5.0))
        placer.started(name, now)
        policy.wait_limit_s(Job(_request("oldest", arrival=now), sequence=10**6), now)
        if number % 3:
            placer.finished(name, now + 5, num_output_tokens=5, prefill_s=None)
        else:
            placer.forget(name, now + 1)
        now += 5
    assert policy.state()["fcfs_p99_jct_s"] <= 6.0
    assert policy.wait_limit_s(Job(_request("oldest", arrival=now), sequence=10**6), now) <= 10.0


def test_a_policy_that_does_not_learn_needs_no_telling() -> None:
    placer = Placer(FCFS(), service=A_SECOND_A_TOKEN, num_slots=1)
    assert placer.place(_request("a", arrival=1.5), Prediction(5.0)) == 15_000
    placer.started("a", 2.0)
    assert placer.finished("a", 3.0, num_output_tokens=5, prefill_s=None).request_id == "a"


def test_a_long_prompt_of_token_ids_is_known_by_its_head_and_tail() -> None:
    words = as_words(range(10_000)).split()
    assert len(words) == 256
    assert (words[0], words[127], words[128], words[-1]) == ("0", "127", "9872", "9999")
    assert as_words([5, 6]) == "5 6"


def test_lessons_wait_until_there_is_time_for_them() -> None:
    predictor = TokenPredictor()
    request = Request(request_id="a", prompt=as_words([1, 2, 3]), arrival_time=0.0)
    before = predictor.predict(request).num_output_tokens
    for _ in range(20):
        predictor.observe(request, 4000)
    assert predictor.predict(request).num_output_tokens == before
    predictor.learn(20)
    assert predictor.predict(request).num_output_tokens > 3 * before


class _Broken:
    def predict(self, requests: Sequence[Request]) -> list[Prediction]:
        raise RuntimeError("broken")

    def observe(self, request: Request, num_output_tokens: int) -> None:
        raise RuntimeError("broken")


def test_a_predictor_that_breaks_stops_no_engine_and_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    predictor = TokenPredictor(_Broken())
    for _ in range(3):
        assert predictor.predict(_request("a")).num_output_tokens == 256
        predictor.observe(_request("a"), 5)
        predictor.learn(1)
    assert len(caplog.records) == 1
