"""Data sets of the hub: the client of the hub is replaced, its network is not ours to test."""

import sys
import types
from pathlib import Path

import pytest

from ssjf.errors import DataError
from ssjf.workload.reader import read_workload


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for the hub: OWNER/NAME/FILE."""

    def download(repository: str, file: str, *, repo_type: str) -> str:
        assert repo_type == "dataset"
        path = tmp_path / repository / file
        if not path.exists():
            raise OSError(f"404 Client Error\n for {repository}/{file}")
        return str(path)

    class Api:
        def list_repo_files(self, repository: str, *, repo_type: str) -> list[str]:
            folder = tmp_path / repository
            return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    client = types.ModuleType("huggingface_hub")
    client.hf_hub_download, client.HfApi = download, Api  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return tmp_path


def put(hub: Path, name: str, text: str) -> None:
    path = hub / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("path", ["hf://lmsys/chats/data/one.jsonl", Path("hf://lmsys/chats/data/one.jsonl")])
def test_a_file_of_a_set_is_read_like_any_other(hub: Path, path: str | Path) -> None:
    put(hub, "lmsys/chats/data/one.jsonl", '{"prompt": "hello", "output_tokens": 3}\n')
    assert [(item.prompt, item.output_tokens) for item in read_workload(path)] == [("hello", 3)]


def test_what_cannot_be_had_is_one_clear_line(hub: Path) -> None:
    put(hub, "a/b/train.jsonl", "{}")
    put(hub, "a/b/README.md", "")
    with pytest.raises(DataError, match=r"name one of its files: README\.md, train\.jsonl"):
        read_workload("hf://a/b")
    with pytest.raises(DataError, match=r"404 Client Error for a/b/no\.jsonl.*name the local file"):
        read_workload("hf://a/b/no.jsonl")
    with pytest.raises(DataError, match="write hf://OWNER/NAME/FILE"):
        read_workload("hf://a")


def test_without_the_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="pip install"):
        read_workload("hf://a/b/c.jsonl")
