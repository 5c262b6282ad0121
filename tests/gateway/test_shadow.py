import asyncio
import logging

import pytest

from ssjf.core.policies import FCFS, SSJF
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Job, Prediction, Request
from ssjf.gateway.shadow import Estimate, Shadow

MODEL = LinearServiceModel()


def job(request_id: str, *, num_output_tokens: float) -> Job:
    request = Request(request_id=request_id, prompt="secret", arrival_time=0.0)
    return Job(request, prediction=Prediction(num_output_tokens))


async def fill(shadow: Shadow) -> None:
    """A long request first, then 49 short ones; all are there from the beginning."""
    for index in range(50):
        service_s = 49.0 if index == 0 else 1.0
        shadow.add(job(str(index), num_output_tokens=10 * service_s), service_s, MODEL)


@pytest.mark.parametrize(
    ("max_wait_s", "other_jct_s"),
    [
        # shortest first: the short ones end at 1, 2, ... 49 and the long one at 98
        (None, (sum(range(1, 50)) + 98) / 50),
        # nobody may overtake who waited 0 s: that is FCFS
        (0.0, (49 + sum(range(50, 99))) / 50),
    ],
)
async def test_the_estimate_is_what_pencil_and_paper_give(
    max_wait_s: float | None, other_jct_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    reported: asyncio.Future[Estimate] = asyncio.get_running_loop().create_future()
    shadow = Shadow(FCFS, SSJF, num_slots=lambda: 1, max_wait_s=max_wait_s, report=reported.set_result)
    with caplog.at_level(logging.INFO):
        await fill(shadow)
        estimate = await reported
    await shadow.close()
    assert estimate.num_jobs == 50
    assert estimate.own_jct_s == (49 + sum(range(50, 99))) / 50
    assert estimate.other_jct_s == other_jct_s
    assert estimate.gain == pytest.approx(1 - other_jct_s / estimate.own_jct_s)
    assert "shadow estimate over 50 requests" in caplog.text


async def test_prompts_are_not_kept() -> None:
    shadow = Shadow(FCFS, SSJF, num_slots=lambda: 1, max_wait_s=None, report=lambda _: None)
    shadow.add(job("a", num_output_tokens=1), 1.0, MODEL)
    assert shadow._served[0].request.prompt == ""
    await shadow.close()
