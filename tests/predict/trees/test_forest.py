"""Trees as flat arrays, beside the nested ones they come from."""

from typing import Any

import numpy as np
import pytest

from ssjf.errors import ArtefactError
from ssjf.predict.trees.forest import Forest


def split(feature: int, threshold: float, left: Any, right: Any) -> dict[str, Any]:
    node = {"split_feature": feature, "threshold": threshold, "decision_type": "<="}
    return {**node, "left_child": left, "right_child": right}


def leaf(value: float) -> dict[str, Any]:
    return {"leaf_value": value}


DEEP = split(0, 1.5, leaf(1.0), split(1, -2.0, split(0, 9.0, leaf(2.0), leaf(3.0)), leaf(4.0)))


@pytest.fixture
def forest() -> Forest:
    return Forest.from_nodes([DEEP, leaf(10.0), split(1, 0.0, leaf(100.0), leaf(200.0))])


@pytest.mark.parametrize(
    ("row", "value"),
    [((1.5, 0.0), 1 + 10 + 100), ((1.6, -2.0), 2 + 10 + 100), ((9.1, -3.0), 3 + 10 + 100), ((2.0, 0.1), 4 + 10 + 200)],
)
def test_a_row_falls_to_the_leaf_that_its_features_lead_to(
    forest: Forest, row: tuple[float, float], value: float
) -> None:
    assert forest.depth == 3
    assert forest.apply(np.array([row])).tolist() == [value]


def test_no_rows_have_no_values_and_no_tree_is_worth_nothing(forest: Forest) -> None:
    assert forest.apply(np.zeros((0, 2))).shape == (0,)
    assert Forest.from_nodes([]).apply(np.zeros((3, 2))).tolist() == [0, 0, 0]


def test_it_is_what_lightgbm_grew() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 6)).round(1)  # rounded, so that many values lie exactly on thresholds
    target = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2])
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(rows, target), 60)
    forest = Forest.from_nodes([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])
    wanted = booster.predict(rows)
    assert np.abs(forest.apply(rows) - wanted).max() < 1e-12
    again = Forest.restore(forest.arrays(), num_features=6)
    assert (again.apply(rows) == forest.apply(rows)).all()
    assert [float(forest.apply(rows[i : i + 1])[0]) for i in range(500)] == forest.apply(rows).tolist()


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("tree_child", 4, 0),  # a walk that never ends
        ("tree_child", 2, 99),
        ("tree_child", 2, -1),
        ("tree_feature", 0, 2),
        ("tree_feature", 0, -1),
        ("tree_roots", 1, 99),
        ("tree_roots", 1, -1),
        ("tree_threshold", 0, np.nan),
        ("tree_threshold", 1, 3.0),  # a leaf that asks something
        ("tree_value", 1, np.inf),
    ],
)
def test_damaged_trees_are_refused(forest: Forest, name: str, place: int, value: float) -> None:
    arrays = forest.arrays()
    arrays[name][place] = value
    with pytest.raises(ArtefactError, match="damaged trees"):
        Forest.restore(arrays, num_features=2)


def test_trees_cut_short_are_refused(forest: Forest) -> None:
    arrays = forest.arrays()
    arrays["tree_value"] = arrays["tree_value"][:-1]
    with pytest.raises(ArtefactError, match="damaged trees"):
        Forest.restore(arrays, num_features=2)
