import pytest

from ssjf.core.places.capacity import Slots
from ssjf.core.service import LinearServiceModel, MeasuredServiceModel
from ssjf.core.types import Job, Request

JOB = Job(Request(request_id="any", arrival_time=0.0))


def test_slots_fit_until_all_are_taken() -> None:
    slots = Slots(2)
    slots.take(JOB, 0.0)
    assert slots.fits()
    slots.take(JOB, 0.0)
    assert not slots.fits()
    slots.release(JOB)
    assert slots.fits()


def test_slots_that_shrink_below_what_runs_let_nobody_in_until_enough_have_left() -> None:
    slots = Slots(3)
    for _ in range(3):
        slots.take(JOB, 0.0)
    slots.resize(1)
    for _ in range(2):
        slots.release(JOB)
        assert not slots.fits()
    slots.release(JOB)
    assert slots.fits()


@pytest.mark.parametrize("total", [0, -1])
def test_a_host_without_slots_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match="at least 1 slot"):
        Slots(total)


def test_the_default_service_model_is_the_papers() -> None:
    assert LinearServiceModel().seconds(500, 100) == 0.1 + 0.02 * 100


def test_input_tokens_count_where_the_model_says_so() -> None:
    model = LinearServiceModel(base_s=1.0, per_input_token_s=0.5, per_output_token_s=0.25)
    assert model.seconds(2, 4) == 3.0


def test_a_measured_model_starts_from_its_prior_and_comes_to_what_it_sees() -> None:
    measured = MeasuredServiceModel()
    assert measured.model().per_output_token_s == pytest.approx(0.02)
    for _ in range(1000):
        measured.observe(num_input_tokens=100, num_output_tokens=51, prefill_s=0.5, total_s=3.0)
    assert measured.model().per_input_token_s == pytest.approx(0.005, rel=0.01)
    assert measured.model().per_output_token_s == pytest.approx(0.05, rel=0.01)


def test_an_answer_in_one_piece_teaches_the_speed_of_decoding_only() -> None:
    measured = MeasuredServiceModel()
    before = measured.model().per_input_token_s
    for _ in range(1000):
        measured.observe(num_input_tokens=0, num_output_tokens=11, prefill_s=None, total_s=1.0)
    measured.observe(num_input_tokens=5, num_output_tokens=1, prefill_s=None, total_s=9.0)
    assert measured.model().per_input_token_s == before
    assert measured.model().per_output_token_s == pytest.approx(0.1, rel=0.01)
