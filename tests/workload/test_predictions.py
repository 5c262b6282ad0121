"""Reading prediction files: the format, and one line for whatever is wrong with one."""

import gzip
from pathlib import Path

import pytest

from ssjf.errors import DataError
from ssjf.workload.predictions import read_predictions

HEADER = "idx,model,output_tokens,pred_class2,pred_class5,lat2_ms,lat5_ms,round\n"
ROWS = "0,m,40,0,1,23.0,24.0,1\n1,m,60,0,1,9.5,10.5,2\n2,m,300,1,3,7.5,8.0,1\n"


def test_columns_are_those_of_the_classifier_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(HEADER + ROWS)
    five, two = read_predictions(path, num_classes=5), read_predictions(path, num_classes=2)
    assert five.output_tokens == two.output_tokens == (40, 60, 300)
    assert (five.class_ids, two.class_ids) == ((1, 1, 3), (0, 0, 1))
    assert (five.latency_s, two.latency_s) == ((0.024, 0.0105, 0.008), (0.023, 0.0095, 0.0075))
    assert five.rounds == (1, 2, 1)


def test_class_means_come_from_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    predictions = read_predictions(path, num_classes=5)
    assert predictions.class_means == {1: 50, 3: 300}
    assert predictions.expected_tokens == (50, 50, 300)


def test_latencies_and_rounds_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("output_tokens,pred_class5\n7,0\n")
    predictions = read_predictions(path, num_classes=5)
    assert (predictions.latency_s, predictions.rounds) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column output_tokens, pred_class5; it has: none"),
        ("output_tokens\n7\n", "no column pred_class5; it has: output_tokens"),
        ("output_tokens,pred_class5\n7,0\n7.5,0\n", "row 2: output_tokens must be a whole number .* not '7.5'"),
        ("output_tokens,pred_class5\n-7,0\n", "row 1: output_tokens must"),
        ("output_tokens,pred_class5\n7,nan\n", "row 1: pred_class5 must"),
        ("output_tokens,pred_class5\n7\n", "row 1: pred_class5 must be .* not None"),
        ("output_tokens,pred_class5,lat5_ms\n7,0,fast\n", "row 1: lat5_ms must be a number of at least 0, not 'fast'"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong_and_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(path, num_classes=5)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_predictions(tmp_path / "absent.csv", num_classes=5)
    path = tmp_path / "predictions.csv.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot read"):
        read_predictions(path, num_classes=5)
