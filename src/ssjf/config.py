"""Settings: flags over environment (`SSJF_...`) over a TOML file over defaults; frozen, strict, no unknown names.

The only module that knows the file format.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from ssjf.errors import ConfigError, did_you_mean

_PREFIX = "SSJF_"
_PREFIXES = (_PREFIX, "SSJF_VLLM_")
# Kubernetes tells every container of the services around it: one called ssjf gives SSJF_SERVICE_HOST, SSJF_PORT ...
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")

Settings = TypeVar("Settings", bound=BaseSettings)

Mode = Literal["hold", "priority"]


def _slots(value: object) -> object:
    """Flags and the environment give text."""
    if not isinstance(value, str) or value == "auto":
        return value
    if not value.isdecimal():
        raise ValueError("slots are a whole number of at least 1, or auto")
    return int(value)


NumSlots = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_slots)]


def _words(value: object) -> object:
    """Several URLs in one variable of the environment stand behind one another."""
    return value.split() if isinstance(value, str) else value


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


def _url(url: str) -> str:
    """An engine's address, without credentials: it appears in logs and metrics."""
    if url.startswith("unix:"):
        return url
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        ok, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an engine's URL must not hold credentials: name a variable with its key in api_key_env")
    if not ok or parts.query or parts.fragment:
        raise ValueError("an engine's URL is http://HOST:PORT, https://HOST or unix:/path/to/socket")
    return url


OptionalPath = Annotated[Path | None, BeforeValidator(_path)]
"""A file; text from flags, the environment and TOML is understood."""


class _Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class BackendSettings(_Table):
    """One engine: `[[backends]]`."""

    url: Annotated[str, AfterValidator(_url)] = Field(description="of an OpenAI-compatible engine")
    name: str = Field(default="", description="for metrics and logs; none is host and port of the URL")
    slots: NumSlots | None = Field(default=None, description="works on so many at once; none is the gateway's `slots`")
    mode: Mode | None = Field(default=None, description="hold or priority; none is the gateway's `mode`")
    models: list[str] = Field(default=[], description="that it serves; none are those that it lists itself")
    api_key_env: str | None = Field(default=None, description="environment variable that holds its API key")


class KeySettings(_Table):
    """One API key that clients may show: `[[keys]]`; made by `ssjf config key`."""

    name: str = Field(description="for logs")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the key, in hexadecimal; the key itself is not kept")
    tenant: str = Field(default="", description="whose requests these are; none is the key's name")
    tier: int = Field(default=0, ge=-100, le=100, description="smaller ones are served strictly before larger ones")
    admin: bool = Field(default=False, description="may see /metrics and /dashboard")
    hints: bool = Field(default=False, description="may give output lengths, tiers and priorities of its own")


class TenantSettings(_Table):
    """One tenant: `[tenants.NAME]`."""

    weight: float = Field(default=1.0, gt=0, description="of its share, where tenants are served fairly")
    max_live: int | None = Field(default=None, ge=1, description="requests that may wait or run at once")


class ServeSettings(BaseSettings):
    """What one gateway needs to know; most fields are also a flag and an environment variable of the same name."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backend: Annotated[list[Annotated[str, AfterValidator(_url)]], NoDecode, BeforeValidator(_words)] = Field(
        [], description="URL of an OpenAI-compatible engine, may be given several times; none starts the embedded one"
    )
    backends: list[BackendSettings] = Field(default=[], description="engines that need more than a URL")
    model: str | None = Field(default=None, description="what the embedded engine loads; none is the bundled model")
    policy: str = Field("auto", description="who is served next, as NAME or NAME:CONSTANT=VALUE")
    shadow: str | None = Field(default=None, description="a policy to compare with, reordering nothing")
    slots: NumSlots = Field(
        "auto", description="requests that an engine works on at once; auto learns it, and is 8 for the embedded engine"
    )
    mode: Mode = Field("hold", description="hold: order requests here; priority: let all in and tell the engine")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 for any free one")
    predictor: str = Field("default", description="name of a predictor or folder of a trained one")
    accept_hints: bool = Field(default=False, description="clients may give output length, tier and priority")
    ignore_max_tokens: bool = Field(
        default=False, description="predict without the client's max_tokens, for experiments where it is the length"
    )
    max_waiting: int = Field(10_000, ge=0, description="requests that may wait; more are answered with 429")
    max_waiting_mb: float = Field(256.0, gt=0, description="bodies of accepted requests together; 429 beyond")
    max_wait_s: float | None = Field(default=None, ge=0, description="who waited this long is overtaken by nobody")
    max_body_mb: float = Field(8.0, gt=0, description="larger request bodies are answered with 413")
    predict_budget_ms: float = Field(20.0, ge=0, description="time a prediction may take before it is done without")
    connect_timeout_s: float = Field(10.0, gt=0, description="for a connection to an engine")
    first_token_timeout_s: float = Field(600.0, gt=0, description="from dispatch to the first piece of an answer")
    stall_timeout_s: float = Field(120.0, gt=0, description="between two pieces of an answer, or of a client's reading")
    total_timeout_s: float = Field(3600.0, gt=0, description="from acceptance to the end of an answer")
    drain_s: float = Field(30.0, ge=0, description="seconds for accepted requests to finish after SIGTERM")
    tenant_header: str | None = Field(
        None, description="header that names the tenant, for gateways behind a proxy that sets it"
    )
    admin_without_key: bool = Field(
        default=False, description="/metrics and /dashboard are open also where others than this machine may come in"
    )
    fair: bool = Field(default=False, description="share service among tenants by their weights")
    log_format: Literal["text", "json"] = Field("text", description="text for people, json for machines")
    log: OptionalPath = Field(
        default=None, description="SQLite file for the request log and what the predictor learns; none keeps nothing"
    )
    log_prompts: bool = Field(default=False, description="keep the text of prompts in the log, to train on")
    log_max_rows: int = Field(1_000_000, ge=1, description="requests that the log keeps; the oldest go")
    log_max_mb: float = Field(4096.0, gt=0, description="megabytes that the log may take; the oldest requests go")
    keys: list[KeySettings] = Field(default=[], description="API keys; none lets everybody in")
    tenants: dict[str, TenantSettings] = Field(default={}, description="tenants that differ from others")

    @model_validator(mode="after")
    def _consistent(self) -> "ServeSettings":
        if self.keys and self.tenant_header:
            raise ValueError("tenant_header is for gateways without keys; with keys, the key names the tenant")
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have the same name")
        return self

    @property
    def listens_to_itself(self) -> bool:
        """Nobody but this machine can come in."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    def engines(self) -> list[BackendSettings]:
        """All engines behind the gateway; none for the embedded one."""
        return [*(BackendSettings(url=url) for url in self.backend), *self.backends]


def load_settings(file: Path | None = None, **flags: object) -> ServeSettings:
    """Settings from the flags that were given, the environment, the file, and the defaults.

    Raises:
        ConfigError: a value is out of range, or a name is no setting; the message names it.
    """
    return read_settings(ServeSettings, file, **flags)


def read_settings(kind: type[Settings], file: Path | None = None, **flags: object) -> Settings:
    """Settings of any kind from the flags that were given, the environment, the file, and the defaults.

    Variables are no mistake of this kind's when they begin with another's longer prefix.

    Raises:
        ConfigError: a value is out of range, or a name is no setting; the message names it.
    """
    prefix = kind.model_config["env_prefix"]
    known = {prefix + name.upper() for name in kind.model_fields}
    others = tuple(other for other in _PREFIXES if other.startswith(prefix) and other != prefix)
    for variable in sorted(environment()):
        if variable.startswith(prefix) and not variable.startswith(others) and variable not in known:
            raise ConfigError(f"environment variable {variable} is no setting; {did_you_mean(variable, known)}")
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return _from_sources(kind, file)(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(_explain(kind, error)) from None
    except SettingsError as error:
        raise ConfigError(_not_json(prefix, error)) from None


def environment() -> dict[str, str]:
    """The variables that may be meant for us: not what Kubernetes says of a service that has our name."""
    return {name: value for name, value in os.environ.items() if not _is_service_link(name, value)}


def _is_service_link(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and _SERVICE_PORT.match(value):
        return True
    return _SERVICE_LINK.fullmatch(variable) is not None


def _from_sources(kind: type[Settings], file: Path | None) -> type[Settings]:
    """The same settings, with the file, if there is one, as a source below the environment.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file is not None:
        _check_toml(file)

    class FromSources(kind):  # type: ignore[valid-type, misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            **_: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            assert isinstance(env_settings, EnvSettingsSource)
            known = env_settings.env_vars  # by lower-case name
            env_settings.env_vars = {name: known[name] for name in map(str.lower, environment()) if name in known}
            sources = (init_settings, env_settings)
            return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, toml_file=file))

    return FromSources


def _check_toml(file: Path) -> None:
    try:
        tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _not_json(prefix: str, error: SettingsError) -> str:
    """What to do about a variable for a table; its value is not told, for it may be a key."""
    named = re.search(r'field "(\w+)"', str(error))
    variable = prefix + (named[1].upper() if named else "...")
    urls = f"; engines' URLs alone go into {_PREFIX}BACKEND" if variable == f"{_PREFIX}BACKENDS" else ""
    return f"environment variable {variable} must be JSON; tables are better kept in a file{urls}"


def _explain(kind: type[BaseSettings], error: ValidationError) -> str:
    """The first mistake, in a line."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith(("constrained", "lit")))]
    name = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        return f"{name} is no setting; {did_you_mean(str(place[-1]), _names_at(kind, place[:-1]))}"
    if first["type"] == "missing":
        return f"setting {name} is missing"
    if not name:
        return str(first["msg"]).removeprefix("Value error, ")
    message = f"setting {name}: {first['msg'].removeprefix('Value error, ')}"
    if "keys" in place or "@" in str(first["input"]):  # nobody is to find a key or a password in a log
        return message
    return f"{message}, not {first['input']!r}"


def _names_at(kind: type[BaseModel], place: list[Any]) -> list[str]:
    """Names of the settings that may stand at a place of the file."""
    tables: dict[str, type[BaseModel]] = {"backends": BackendSettings, "keys": KeySettings, "tenants": TenantSettings}
    return list((tables.get(str(place[0]), kind) if place else kind).model_fields)
