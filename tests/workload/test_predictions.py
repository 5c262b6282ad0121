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


def test_a_byte_order_mark_does_no_harm_and_every_format_of_workloads_is_read(tmp_path: Path) -> None:
    texts = {"bom.csv": "\ufeffoutput_tokens,pred_class5\n7,0\n", "p.jsonl": '{"output_tokens": 7, "pred_class5": 0}\n'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        predictions = read_predictions(tmp_path / name, num_classes=5)
        assert (predictions.output_tokens, predictions.class_ids) == ((7,), (0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("output_tokens,pred_class5\n", "has no rows"),
        ("output_tokens\n7\n", "no column pred_class5; it has: output_tokens"),
        ("output_tokens,pred_class5\n7,0\n7.5,0\n", r"row 1 \(line 3\): output_tokens must be a whole .* not '7.5'"),
        ("output_tokens,pred_class5\n1e300,0\n", r"row 0 \(line 2\): output_tokens must be a whole number from 0 to"),
        ("output_tokens,pred_class5\n-7,0\n", r"row 0 \(line 2\): output_tokens must"),
        ("output_tokens,pred_class5\n7,nan\n", r"row 0 \(line 2\): pred_class5 must"),
        ("output_tokens,pred_class5\n7,\n", r"row 0 \(line 2\): pred_class5 is missing"),
        ("output_tokens,pred_class5\n7\n", r"row 0 \(line 2\): 1 cells under 2 columns"),
        ("output_tokens,pred_class5,lat5_ms\n7,0,fast\n", "lat5_ms must be a finite number of at least 0, not 'fast'"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong_and_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(path, num_classes=5)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "absent.csv", num_classes=5)
    path = tmp_path / "predictions.csv.gz"
    whole = gzip.compress((HEADER + ROWS).encode())
    # no archive; one that ends too soon; one with a byte changed in its middle
    for damaged in (b"not gzip", whole[:-12], whole[:30] + bytes([whole[30] ^ 255]) + whole[31:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            read_predictions(path, num_classes=5)
