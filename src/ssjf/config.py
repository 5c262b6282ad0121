"""The settings of `ssjf serve`: flags over environment (`SSJF_...`) over defaults; frozen, strict, no unknown names."""

import os
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ssjf.errors import ConfigError, did_you_mean

_PREFIX = "SSJF_"
_PREFIXES = (_PREFIX, "SSJF_VLLM_")

Settings = TypeVar("Settings", bound=BaseSettings)


class ServeSettings(BaseSettings):
    """What one gateway needs to know; each field is a flag and an environment variable of the same name."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    backend: str | None = Field(None, description="URL of an OpenAI-compatible engine; none starts the embedded one")
    model: str | None = Field(None, description="what the embedded engine loads; none is the bundled model")
    policy: str = Field("auto", description="who is served next, as NAME or NAME:CONSTANT=VALUE")
    shadow: str | None = Field(None, description="a policy to compare with, reordering nothing")
    slots: int = Field(8, ge=1, description="requests that the engine works on at once")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 for any free one")
    predictor: str = Field("ngram", description="name of a predictor or folder of a trained one")
    accept_hints: bool = Field(default=False, description="clients may give the output length in a header")
    ignore_max_tokens: bool = Field(
        default=False, description="predict without the client's max_tokens, for experiments where it is the length"
    )
    max_waiting: int = Field(10_000, ge=0, description="requests that may wait; more are answered with 429")
    max_wait_s: float | None = Field(None, ge=0, description="once a request waited this long, nobody overtakes it")
    max_body_mb: float = Field(8.0, gt=0, description="larger request bodies are answered with 413")
    predict_budget_ms: float = Field(20.0, ge=0, description="time a prediction may take before it is done without")
    drain_s: float = Field(30.0, ge=0, description="seconds for accepted requests to finish after SIGTERM")


def load_settings(**flags: object) -> ServeSettings:
    """Settings from the flags that were given, the environment, and the defaults.

    Raises:
        ConfigError: a value is out of range, or a variable of the environment is no setting; the message names it.
    """
    return read_settings(ServeSettings, **flags)


def read_settings(kind: type[Settings], **flags: object) -> Settings:
    """Settings of any kind from the flags that were given, the environment, and the defaults.

    Variables are no mistake of this kind's when they begin with another's longer prefix.

    Raises:
        ConfigError: a value is out of range, or a variable of the environment is no setting; the message names it.
    """
    prefix = kind.model_config["env_prefix"]
    known = {prefix + name.upper() for name in kind.model_fields}
    others = tuple(other for other in _PREFIXES if other.startswith(prefix) and other != prefix)
    for variable in sorted(os.environ):
        if variable.startswith(prefix) and not variable.startswith(others) and variable not in known:
            raise ConfigError(f"environment variable {variable} is no setting; {did_you_mean(variable, known)}")
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"setting {name}: {first['msg']}, not {first['input']!r}") from None
