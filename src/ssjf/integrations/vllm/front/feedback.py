"""What became of requests, from vLLM's own books to the front door in the same process.

vLLM finds `FeedbackLogger` by an entry point and makes one in every API server. It does not know who predicted.
"""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from ssjf.integrations.vllm.front.door import Finished, tell

_ENDED_BY_ITSELF = ("STOP", "LENGTH", "REPETITION")  # by name, as older versions lack the last


class FeedbackLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Passes on each finished request's true length and times."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        """One for each engine of this API server."""
        # with several API servers each sees a part of the requests, and with several engines those of all come here:
        # then nobody can tell what another order would have given
        parallel = vllm_config.parallel_config
        alone = getattr(parallel, "_api_process_count", 1) == getattr(parallel, "data_parallel_size", 1) == 1
        self._num_slots = vllm_config.scheduler_config.max_num_seqs if alone and engine_index == 0 else None

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """One step of the engine, or of one of its engines."""
        if iteration_stats is None:
            return
        for request in iteration_stats.finished_requests:
            request_id = getattr(request, "request_id", None)  # older versions do not tell; then nothing is learned
            if request_id is not None and request.finish_reason.name in _ENDED_BY_ITSELF:
                tell(
                    Finished(
                        request_id=request_id,
                        num_output_tokens=request.num_generation_tokens,
                        prefill_s=request.prefill_time,
                        service_s=request.inference_time,
                        num_slots=self._num_slots,
                    )
                )

    def log_engine_initialized(self) -> None:
        """There is nothing to say."""
