"""The settings inside vLLM: environment, over the TOML file that `SSJF_VLLM_CONFIG` names, over defaults.

vLLM has no flags for what it loads; the variables are `SSJF_VLLM_...`.

The processes of one vLLM (API servers, engine) inherit one environment, so they agree.
"""

import logging
import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ssjf.config import OptionalPath, read_settings
from ssjf.core.policies import EDF
from ssjf.core.priority import sortable
from ssjf.core.service import LinearServiceModel
from ssjf.core.types import Policy
from ssjf.errors import ConfigError
from ssjf.plugins import make_policy

_log = logging.getLogger(__name__)


class VLLMSettings(BaseSettings):
    """What the front door and the scheduler class need to know; each field is an environment variable."""

    model_config = SettingsConfigDict(
        env_prefix="SSJF_VLLM_", frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )

    config: OptionalPath = Field(None, description="TOML file with these settings; variables win over it")
    policy: str = Field("auto", description="who is served next, as NAME or NAME:CONSTANT=VALUE")
    predictor: str = Field("default", description="front door: name of a predictor or folder of a trained one")
    lessons: OptionalPath = Field(
        None, description="front door: file in which true lengths, with prompts, are kept and shared by all API servers"
    )
    tokens_in_priority: bool = Field(
        default=False,
        description="both are in use: the front door sends predicted tokens, the scheduler class makes the order",
    )
    accept_hints: bool = Field(default=False, description="clients may give the output length of their requests")
    accept_tiers: bool = Field(default=False, description="the priority that a client sends is its tier, lower first")
    ignore_max_tokens: bool = Field(
        default=False, description="predict without the client's max_tokens, for experiments where it is the length"
    )
    base_seconds: float = Field(0.0, ge=0, description="service seconds of any request, before its tokens")
    seconds_per_input_token: float | None = Field(None, ge=0, description="service seconds per prompt token")
    seconds_per_token: float | None = Field(None, gt=0, description="service seconds per output token")
    predict_budget_ms: float = Field(20.0, ge=0, description="front door: time a prediction may take")
    max_body_mb: float = Field(8.0, gt=0, description="front door: larger bodies pass through without a prediction")
    any_version: bool = Field(default=False, description="try a version of vLLM that is not supported")

    @property
    def service(self) -> LinearServiceModel | None:
        """The service model that was given; None where it is to be measured."""
        if self.seconds_per_token is None or self.seconds_per_input_token is None:
            return None
        return LinearServiceModel(self.base_seconds, self.seconds_per_input_token, self.seconds_per_token)

    def make_policy(self, *, limits_waits: bool) -> Policy:
        """The policy, in the form that its host can sort by; says so where it is another than was asked for.

        Args:
            limits_waits: whether the host's queue lets a policy put its oldest request first.

        Raises:
            UserError: there is no such policy, or its host cannot sort by it.
        """
        asked = make_policy(self.policy)
        if isinstance(asked, EDF):
            raise ConfigError(
                "requests have no deadlines inside vLLM, and without them edf is fcfs; serve edf with the gateway"
            )
        used = sortable(asked, limits_waits=limits_waits)
        if used is not asked:
            _log.warning("policy %s needs a queue of its own; at the front door it is auto-static", self.policy)
        return used

    def check_hosts(self, *, front_door: bool, scheduler: bool) -> None:
        """Refuse settings under which what is in use would not work together.

        Args:
            front_door: whether the front door is in use.
            scheduler: whether the scheduler class is.

        Raises:
            ConfigError: the priority that one sends is not what the other takes it for.
        """
        if front_door and scheduler and self.accept_tiers:
            raise ConfigError(
                "the front door and the scheduler class together cannot heed SSJF_VLLM_ACCEPT_TIERS: the priority "
                "field carries predictions between them; use one of them, or no tiers"
            )
        if front_door and scheduler and not self.tokens_in_priority:
            raise ConfigError(
                "the front door and the scheduler class together need SSJF_VLLM_TOKENS_IN_PRIORITY=true: without it "
                "the one's priorities are lost on the other"
            )
        if self.tokens_in_priority and not (front_door and scheduler):
            raise ConfigError(
                "SSJF_VLLM_TOKENS_IN_PRIORITY is for the front door and the scheduler class together; use both, or "
                "do not set it"
            )


def load_settings() -> VLLMSettings:
    """Settings from the environment, the file that it names, and the defaults.

    Raises:
        ConfigError: a value is out of range or contradicts another, or a variable is no setting; the message names it.
    """
    file = os.environ.get("SSJF_VLLM_CONFIG")
    settings = read_settings(VLLMSettings, Path(file) if file else None)
    if (settings.seconds_per_token is None) != (settings.seconds_per_input_token is None):
        raise ConfigError(
            "set both SSJF_VLLM_SECONDS_PER_TOKEN and SSJF_VLLM_SECONDS_PER_INPUT_TOKEN, or neither to have them "
            "measured"
        )
    if settings.base_seconds and settings.service is None:
        raise ConfigError(
            "SSJF_VLLM_BASE_SECONDS counts only beside SSJF_VLLM_SECONDS_PER_TOKEN and "
            "SSJF_VLLM_SECONDS_PER_INPUT_TOKEN; set all three, or none to have them measured"
        )
    if settings.tokens_in_priority and settings.accept_tiers:
        raise ConfigError(
            "SSJF_VLLM_TOKENS_IN_PRIORITY and SSJF_VLLM_ACCEPT_TIERS both want the priority field; set one of them"
        )
    return settings
