import pytest

from ssjf.predict.simple import Constant, Oracle
from tests.predict.made_up import ask


def test_the_oracle_knows_each_request_by_its_id() -> None:
    oracle = Oracle({"a": 3, "b": 500})
    requests = [ask("same", request_id="b"), ask("same", request_id="a")]
    assert [p.num_output_tokens for p in oracle.predict(requests)] == [500.0, 3.0]
    oracle.observe(requests[0], 7)
    assert oracle.predict(requests[:1])[0].num_output_tokens == 500.0


def test_the_oracle_does_not_guess() -> None:
    with pytest.raises(KeyError):
        Oracle({}).predict([ask("anything")])


def test_a_constant_is_constant() -> None:
    constant = Constant(40)
    constant.observe(ask("x"), 9000)
    assert {p.num_output_tokens for p in constant.predict([ask("x"), ask("y" * 999)])} == {40.0}
