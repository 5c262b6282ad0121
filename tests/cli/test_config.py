"""`ssjf config`: what is wrong with a settings file is said before a server starts with it."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
fair = true
tenant_header = "x-team"
policy = "aged-ssjf:rate=0.1"
slots = "auto"
[[backends]]
url = "http://gpu-1:8000/v1"
slots = 64
[[backends]]
url = "http://gpu-2:8000"
[tenants.research]
weight = 2
max_live = 100
"""


KEY = "[[keys]]\nname = 'alice'\nsha256 = '" + 64 * "a" + "'\n"


def ssjf(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ssjf", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_a_good_file_is_shown_with_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(GOOD)
    done = ssjf("config", "check", str(file), SSJF_PORT="9999")
    assert done.returncode == 0, done.stderr
    for text in ("these settings work", "http://gpu-1:8000/v1", "SSJF_PORT", "9999", "research"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polcy = 'ssjf'", "did you mean 'policy'"),
        ("[[backends]]\nurl = 'http://x'\nslot = 3", "backends.0.slot is no setting; did you mean 'slots'"),
        ("[tenants.a]\nweigth = 3", "did you mean 'weight'"),
        ("[[keys]]\nname = 'a'\nsha256 = 'no'", "keys.0.sha256"),
        ("slots = 0", "setting slots"),
        ("slots = 'many'", "slots are a whole number of at least 1, or auto"),
        ("port = 'x'", "setting port"),
        ("policy = 'ssfj'", "did you mean 'ssjf'"),
        ("policy = 'hrrn'\nmode = 'priority'\nbackend = ['http://x']", "aged-ssjf"),
        ("mode = 'priority'", "the embedded engine knows no priorities"),
        ("backend = ['ftp://x']", "is http://HOST:PORT"),
        ("[[backends]]\nurl = 'http://x:80y'", "is http://HOST:PORT"),
        ("[[backends]]\nurl = 'http://x?a=b'", "is http://HOST:PORT"),
        ("[[backends]]\nurl = 'http://me:secret@x'", "must not hold credentials"),
        ("mode = 'priority'\nfair = true\nbackend = ['http://x']", "fair is for requests that wait here"),
        ("mode = 'priority'\nmax_wait_s = 3\nbackend = ['http://x']", "max_wait_s is for requests that wait here"),
        ("[[keys]]\nname = 'a'\nsha256 = 'sk-ssjf-secret'", "keys.0.sha256"),
        ("predictor = '/no/such/folder'", "/no/such/folder"),
        ("model = 'm.gguf'\nbackend = ['http://x']", "--model is for the embedded engine"),
        ("[[backends]]\nurl = 'http://x'\napi_key_env = 'NO_SUCH'", "NO_SUCH is not set"),
        ("x = ", "is not TOML"),
        ("log_prompts = true", "log_prompts keeps prompts in the request log, and there is none"),
        ("[tenants.research]\nmax_live = 1", "nobody can tell who is of tenant research"),
        (KEY + "[tenants.alise]\nmax_live = 1", "no key is of tenant alise; did you mean 'alice'"),
        (KEY + "[tenants.alice]\nweight = 2", "set fair"),
        ("mode = 'priority'\nslots = 8\nbackend = ['http://x']", "slots are for mode hold"),
        ("[[backends]]\nurl = 'http://x'\nmode = 'priority'\nslots = 8", "slots are for mode hold"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    done = ssjf("config", "check", str(file))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "slots = 8\n[[backends]]\nurl = 'http://x'\nmode = 'priority'\n[[backends]]\nurl = 'http://y'",
        "fair = true\n" + KEY + "tenant = 'research'\n[tenants.research]\nweight = 2",
    ],
)
def test_settings_that_somebody_heeds_are_no_mistake(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    done = ssjf("config", "check", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SSJF_BACKENDS", "http://gpu:8000", "engines' URLs alone go into SSJF_BACKEND"),
        ("SSJF_KEYS", "sk-secret", "SSJF_KEYS must be JSON"),
        ("SSJF_TENANTS", "research", "SSJF_TENANTS must be JSON"),
    ],
)
def test_a_variable_that_is_no_table_is_named_in_one_line_without_its_value(
    variable: str, value: str, message: str
) -> None:
    done = ssjf("config", "check", **{variable: value})
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert value not in done.stderr


def test_what_kubernetes_says_of_a_service_called_ssjf_is_no_setting(tmp_path: Path) -> None:
    links = {
        "SSJF_SERVICE_HOST": "10.0.0.1",
        "SSJF_SERVICE_PORT": "80",
        "SSJF_SERVICE_PORT_HTTP": "80",
        "SSJF_PORT": "tcp://10.0.0.1:80",
        "SSJF_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SSJF_PORT_80_TCP_ADDR": "10.0.0.1",
        "SSJF_BATCH_PORT": "tcp://10.0.0.2:80",
        "SSJF_BATCH_SERVICE_HOST": "10.0.0.2",
    }
    file = tmp_path / "gateway.toml"
    file.write_text("port = 9999")
    done = ssjf("config", "check", str(file), **links)
    assert done.returncode == 0, done.stderr
    assert "9999" in done.stdout
    assert "SSJF_PORT" not in done.stdout


@pytest.mark.parametrize(
    "example", sorted((Path(__file__).parents[2] / "deploy").glob("*.toml")), ids=lambda path: path.name
)
def test_the_examples_work(example: Path) -> None:
    done = ssjf("config", "check", str(example))
    assert done.returncode == 0, done.stderr


def test_serve_says_the_same_and_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("polcy = 'ssjf'")
    done = ssjf("serve", "--config", str(file))
    assert done.returncode == 2
    assert "did you mean 'policy'" in done.stderr


def test_a_missing_file_is_an_error() -> None:
    done = ssjf("config", "check", "/no/such/file.toml")
    assert done.returncode == 2
    assert "cannot read /no/such/file.toml" in done.stderr


def test_a_key_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    done = ssjf("config", "key", "alice", "--tenant", "research", "--admin")
    assert done.returncode == 0
    found = re.search(r"sk-ssjf-\S+", done.stderr)
    assert found is not None
    assert found.group() not in done.stdout
    assert hashlib.sha256(found.group().encode()).hexdigest() in done.stdout
    file = tmp_path / "gateway.toml"
    file.write_text(done.stdout)
    assert "alice" in ssjf("config", "check", str(file)).stdout
    assert ssjf("config", "key", 'a"b').returncode == 2
