"""Every known file format and naming is one list of items; every mistake is one line that names file and row."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ssjf.errors import DataError
from ssjf.workload.items import WorkItem
from ssjf.workload.reader import ALL_MODELS, estimate_tokens, read_workload


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CANONICAL = WorkItem(
    index=0,
    arrival_s=1.25,
    input_tokens=7,
    output_tokens=40,
    predicted_tokens=33.5,
    prompt='Say "hi",\nplease',
    model="m",
    tenant="t",
    deadline_s=9.0,
)
CANONICAL_ROW = {
    "arrival_s": 1.25,
    "input_tokens": 7,
    "output_tokens": 40,
    "predicted_tokens": 33.5,
    "prompt": 'Say "hi",\nplease',
    "model": "m",
    "tenant": "t",
    "deadline_s": 9.0,
}


@pytest.mark.parametrize(
    "name", ["w.csv", "w.csv.gz", "w.tsv", "w.jsonl", "w.jsonl.gz", "w.json", "W.JSON.GZ", "w.parquet"]
)
def test_every_format_gives_the_same_item(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist([CANONICAL_ROW]), path)
    else:
        cells = ["1.25", "7", "40", "33.5", '"Say ""hi"",\nplease"', "m", "t", "9"]
        separator = "\t" if kind == "tsv" else ","
        texts = {
            "jsonl": jsonl(CANONICAL_ROW),
            "json": json.dumps([CANONICAL_ROW]),
        }
        table = separator.join(CANONICAL_ROW) + "\n" + separator.join(cells) + "\n"
        text = texts.get(kind, table)
        path.write_bytes(gzip.compress(text.encode()) if name.lower().endswith(".gz") else text.encode())
    assert read_workload(path) == [CANONICAL]


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            ["2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109"],
            [(0.0, 374, 44), (4.314579, 396, 109)],
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            ["2024-05-10 00:00:01.009930+00:00,2162,5", "2024-05-10 00:00:00+00:00,2399,6"],
            [(1.00993, 2162, 5), (0.0, 2399, 6)],
        ),
        (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            ["5,ChatGPT,472,18,490,Conversation log"],
            [(5.0, 472, 18)],
        ),
        ("prompt_id,model_name,prompt_content,response_length", ["0,vicuna-13b,Hello world!,12"], [(None, 3, 12)]),
    ],
    ids=["Azure 2023", "Azure 2024, unsorted", "BurstGPT", "the SSJF paper"],
)
def test_column_names_of_public_data_sets_are_understood(
    tmp_path: Path, header: str, rows: list[str], expected: list[tuple[float | None, int, int]]
) -> None:
    items = read_workload(write(tmp_path / "trace.csv", "\n".join([header, *rows])))
    assert [(item.arrival_s, item.input_tokens, item.output_tokens) for item in items] == expected


def test_mooncake_times_are_milliseconds(tmp_path: Path) -> None:
    row = {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
    (item,) = read_workload(write(tmp_path / "m.jsonl", jsonl(row)))
    assert (item.arrival_s, item.input_tokens, item.output_tokens) == (27.482, 6955, 52)


def test_parquet_keeps_datetimes_apart_to_the_microsecond(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    times = pa.array([1_700_000_000_000_000_001, 1_700_000_000_500_001_999], pa.timestamp("ns"))
    pq.write_table(pa.table({"TIMESTAMP": times, "GeneratedTokens": [1, 2]}), tmp_path / "t.parquet")
    assert [item.arrival_s for item in read_workload(tmp_path / "t.parquet")] == [0.0, 0.500001]


def test_rows_stay_in_the_order_of_the_file_and_keep_their_numbers(tmp_path: Path) -> None:
    items = read_workload(write(tmp_path / "w.csv", "arrival_s,output_tokens\n5,1\n\n2,2\n9,3\n"))
    assert [(item.index, item.arrival_s) for item in items] == [(0, 5.0), (1, 2.0), (2, 9.0)]


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    times = [0.1 + 0.2, 1e-17, 123456.78901234567]
    text = "arrival_s,output_tokens\n" + "".join(f"{time!r},1\n" for time in times)
    assert [item.arrival_s for item in read_workload(write(tmp_path / "w.csv", text))] == times


def test_whole_numbers_may_be_written_with_a_point_and_blanks_are_unknown(tmp_path: Path) -> None:
    items = read_workload(write(tmp_path / "w.csv", "prompt,output_tokens,predicted_tokens\nabcde,12.0,\nx,,3\n"))
    assert [(item.output_tokens, item.predicted_tokens, item.input_tokens) for item in items] == [
        (12, None, 2),
        (None, 3.0, 1),
    ]


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(tmp_path: Path) -> None:
    (item,) = read_workload(write(tmp_path / "w.csv", "\ufeffarrival_s, output_tokens\n1,2\n"))
    assert (item.arrival_s, item.output_tokens) == (1.0, 2)


def test_rows_of_jsonl_may_differ_in_their_keys(tmp_path: Path) -> None:
    items = read_workload(write(tmp_path / "w.jsonl", jsonl({"prompt": "a"}, {"prompt": "b", "out_tokens": 4})))
    assert [item.output_tokens for item in items] == [None, 4]


def test_prompts_may_be_lists_of_messages_in_json_and_in_csv(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (from_json,) = read_workload(write(tmp_path / "w.jsonl", jsonl({"prompt": messages})))
    cell = json.dumps(messages).replace('"', '""')
    (from_csv,) = read_workload(write(tmp_path / "w.csv", f'prompt\n"{cell}"\n'))
    assert from_json.prompt == from_csv.prompt == messages
    assert from_json.input_tokens == 4


def test_text_that_looks_like_json_stays_text(tmp_path: Path) -> None:
    items = read_workload(write(tmp_path / "w.jsonl", jsonl({"prompt": "[1, 2]"}, {"prompt": "[not json"})))
    assert [item.prompt for item in items] == ["[1, 2]", "[not json"]


SET = jsonl(
    {"prompt": "a", "in_tokens": 3, "out_tokens": {"big-llama": 10, "small-llama": 20}},
    {"prompt": "b", "in_tokens": 4, "out_tokens": {"big-llama": 30}},
)


def test_the_target_model_picks_its_lengths(tmp_path: Path) -> None:
    items = read_workload(write(tmp_path / "set.jsonl", SET), target_model="small-llama")
    assert [(item.input_tokens, item.output_tokens, item.model) for item in items] == [
        (3, 20, "small-llama"),
        (4, None, "small-llama"),
    ]


def test_a_csv_cell_may_hold_lengths_by_model(tmp_path: Path) -> None:
    path = write(tmp_path / "set.csv", 'prompt,out_tokens\na,"{""x"": 5, ""y"": 6}"\n')
    assert read_workload(path, target_model="y")[0].output_tokens == 6


def test_a_set_of_several_models_asks_for_one_and_lists_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--target-model, or all: big-llama, small-llama$"):
        read_workload(write(tmp_path / "set.jsonl", SET))


def test_an_unknown_target_model_gets_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", SET)
    with pytest.raises(DataError, match="did you mean 'small-llama'"):
        read_workload(path, target_model="smal-llama")


def test_the_target_model_picks_the_rows_that_name_it(tmp_path: Path) -> None:
    path = write(tmp_path / "w.csv", "model_name,response_length\nx,1\ny,2\nx,3\n")
    assert [(item.index, item.output_tokens) for item in read_workload(path, target_model="x")] == [(0, 1), (2, 3)]
    with pytest.raises(DataError, match="known: x, y"):
        read_workload(path, target_model="z")


def test_items_of_a_file_without_models_get_the_target_models_name(tmp_path: Path) -> None:
    (item,) = read_workload(write(tmp_path / "w.csv", "prompt,output_tokens\na,1\n"), target_model="x")
    assert (item.model, item.output_tokens) == ("x", 1)


@pytest.mark.parametrize(
    ("column", "who", "what", "roles"),
    [
        ("conversations", "from", "value", ("human", "gpt")),
        ("conversation", "role", "content", ("user", "assistant")),
    ],
    ids=["ShareGPT", "LMSYS-Chat-1M"],
)
def test_each_answer_of_a_conversation_is_one_item(
    tmp_path: Path, column: str, who: str, what: str, roles: tuple[str, str]
) -> None:
    user, assistant = roles
    turns = [
        {who: user, what: "Hi"},
        {who: assistant, what: "Hello!"},
        {who: user, what: "Bye"},
        {who: assistant, what: ""},
    ]
    other = [{who: assistant, what: "said to nobody"}, {who: user, what: "Hm"}, {who: assistant, what: "12345678"}]
    rows = [{column: turns, "model": "m"}, {column: other, "model": "m"}]
    items = read_workload(write(tmp_path / "c.json", json.dumps(rows)))
    assert [(item.index, item.output_tokens, item.model) for item in items] == [(0, 2, "m"), (1, 0, "m"), (2, 2, "m")]
    assert items[0].prompt == [{"role": "user", "content": "Hi"}]
    assert items[1].prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    assert items[2].prompt == [{"role": "assistant", "content": "said to nobody"}, {"role": "user", "content": "Hm"}]


def test_lengths_given_with_a_conversation_are_not_estimated(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}] * 2
    path = write(tmp_path / "c.jsonl", jsonl({"conversation": turns, "output_tokens": [17, 4]}))
    assert [item.output_tokens for item in read_workload(path)] == [17, 4]
    path = write(tmp_path / "d.jsonl", jsonl({"conversation": turns, "output_tokens": 17}))
    with pytest.raises(DataError, match=r"row 0 \(line 1\): 1 output lengths for 2 answers"):
        read_workload(path)


def test_estimates_are_a_quarter_of_the_characters() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("w.csv", "", "is empty"),
        ("w.jsonl", "", "has no rows"),
        ("w.json", "[]", "has no rows"),
        ("w.csv", "arrival_s,output_tokens\n", "has no rows"),
        ("w.csv", "when,how_long\n1,2\n", "no known column.*it has: 'when', 'how_long'"),
        ("w.csv", "prompt,prompt\n1,2\n", "several columns named prompt"),
        ("w.csv", "arrival_s,output_tokens\n1,2\n-0.5,2\n", r"row 1 \(line 3\): arrival_s must be .* not '-0.5'"),
        ("w.csv", "arrival_s,output_tokens\nnan,2\n", r"row 0 \(line 2\): arrival_s"),
        ("w.csv", "arrival_s,output_tokens\ninf,2\n", r"row 0 \(line 2\): arrival_s"),
        ("w.csv", "arrival_s,output_tokens\nsoon,2\n", r"row 0 \(line 2\): arrival_s .* not 'soon'"),
        ("w.csv", "arrival_s,output_tokens\n1,2.5\n", r"row 0 \(line 2\): output_tokens must be a whole number"),
        ("w.csv", "arrival_s,output_tokens\n1,-2\n", r"row 0 \(line 2\): output_tokens"),
        ("w.csv", "arrival_s,output_tokens\n1,1e300\n", r"row 0 \(line 2\): output_tokens"),
        ("w.csv", "arrival_s,output_tokens\n1,2\n3\n", r"row 1 \(line 3\): 1 cells under 2 columns"),
        ("w.csv", 'prompt,output_tokens\n"open,2\n', "line 2: unexpected end of data"),
        ("w.csv", "TIMESTAMP,GeneratedTokens\n2023-11-16 18:15:46,1\nlater,2\n", r"row 1 \(line 3\): TIMESTAMP"),
        ("w.csv", "TIMESTAMP,GeneratedTokens\n2023-11-16 18:15:46,1\n2023-11-16 18:15:46+00:00,2\n", "time zone"),
        ("w.jsonl", '{"arrival_s": NaN, "output_tokens": 1}\n', r"row 0 \(line 1\): not valid JSON"),
        ("w.jsonl", '{"output_tokens": 1}\n\n{"output_tokens"\n', r"row 1 \(line 3\): not valid JSON"),
        ("w.jsonl", '{"output_tokens": true}\n', r"row 0 \(line 1\): output_tokens .* not True"),
        ("w.jsonl", '{"output_tokens": [1]}\n', r"row 0 \(line 1\): output_tokens"),
        ("w.jsonl", '{"prompt": 3}\n', r"row 0 \(line 1\): prompt must be text or a list of messages"),
        ("w.jsonl", "[1]\n", r"row 0 \(line 1\): expected a JSON object"),
        ("w.json", "[1]", "row 0: expected a JSON object"),
        ("w.json", '{"a": 1}', "must be a JSON list"),
        ("w.json", "[", "not valid JSON"),
        ("w.json", '[{"conversations": 3}]', "row 0: conversations must be a list of turns"),
        ("w.json", '[{"conversations": [{"from": "human"}]}]', "row 0: each turn"),
        ("w.parquet", "no parquet", "is not a Parquet file"),
        ("w.txt", "a", "must end in .csv, .tsv, .jsonl, .json, .parquet"),
        ("missing/w.csv", None, "cannot be read: .*No such file"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_file_and_row(
    tmp_path: Path, name: str, text: str | None, complaint: str
) -> None:
    path = tmp_path / name if text is None else write(tmp_path / name, text)
    with pytest.raises(DataError, match=complaint) as caught:
        read_workload(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_truncated_archives_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_bytes(b"prompt\nok\n\xff\xfe\n")
    with pytest.raises(DataError, match="line 3: not UTF-8"):
        read_workload(tmp_path / "w.csv")
    (tmp_path / "w.csv.gz").write_bytes(gzip.compress(b"prompt\n" + b"x\n" * 1000)[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        read_workload(tmp_path / "w.csv.gz")
    (tmp_path / "w.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_workload(tmp_path / "w.jsonl.gz")


def test_one_bad_row_among_many_is_named(tmp_path: Path) -> None:
    lines = [f"{i},{i % 500}\n" for i in range(100_000)]
    lines[77_777] = "77777,many\n"
    with pytest.raises(DataError, match=r"row 77777 \(line 77779\): output_tokens .* not 'many'"):
        read_workload(write(tmp_path / "w.csv", "arrival_s,output_tokens\n" + "".join(lines)))


def test_a_line_number_counts_the_lines_within_quoted_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 \(line 4\)"):
        read_workload(write(tmp_path / "w.csv", 'prompt,output_tokens\n"two\nlines",1\nx,y\n'))


def test_what_a_caller_requires_must_be_in_every_row(tmp_path: Path) -> None:
    path = write(tmp_path / "w.csv", "arrival_s,out_tokens\n1,2\n2,\n")
    with pytest.raises(DataError, match="no column input_tokens or ContextTokens"):
        read_workload(path, require=("input_tokens",))
    with pytest.raises(DataError, match=r"row 1 \(line 3\): out_tokens is missing"):
        read_workload(path, require=("arrival_s", "output_tokens"))
    assert len(read_workload(path, require=("arrival_s",))) == 2


def test_parquet_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'ssjf\[parquet\]'"):
        read_workload(write(tmp_path / "w.parquet", "x"))


def test_all_models_of_a_set_become_items_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(
        '{"prompt": "a", "out_tokens": {"m": 3, "n": 5}}\n{"prompt": "b", "out_tokens": {"m": 7, "n": null}}\n'
    )
    items = read_workload(path, target_model=ALL_MODELS)
    assert [(item.prompt, item.model, item.output_tokens) for item in items] == [
        ("a", "m", 3),
        ("a", "n", 5),
        ("b", "m", 7),
    ]
    assert [item.index for item in items] == [0, 1, 2]


def test_all_models_of_a_file_that_names_one_a_row_are_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,output_tokens,model\na,3,m\nb,4,n\n")
    assert [item.model for item in read_workload(path, target_model=ALL_MODELS)] == ["m", "n"]
