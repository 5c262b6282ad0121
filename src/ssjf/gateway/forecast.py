"""The gateway's name for `ssjf.forecast`, which the front door of vLLM uses as well."""

from ssjf.forecast import Forecaster

__all__ = ["Forecaster"]
