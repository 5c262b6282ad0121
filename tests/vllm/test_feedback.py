"""What vLLM's books tell of finished requests reaches the front door, as far as it is the whole answer's length."""

from types import SimpleNamespace

import pytest
from vllm.v1.engine import FinishReason

from ssjf.integrations.vllm.front import feedback
from ssjf.integrations.vllm.front.door import Finished


def test_what_ends_by_itself_is_told_and_what_is_aborted_or_fails_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Finished] = []
    monkeypatch.setattr(feedback, "tell", told.append)
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(data_parallel_size=1), scheduler_config=SimpleNamespace(max_num_seqs=4)
    )
    finished = [
        SimpleNamespace(
            request_id=reason.name,
            finish_reason=reason,
            num_generation_tokens=7,
            prefill_time=0.1,
            inference_time=1.0,
        )
        for reason in FinishReason
    ]
    feedback.FeedbackLogger(config).record(None, SimpleNamespace(finished_requests=finished))
    assert [done.request_id for done in told] == ["STOP", "LENGTH", "REPETITION"]
    assert told[0] == Finished("STOP", num_output_tokens=7, prefill_s=0.1, service_s=1.0, num_slots=4)
