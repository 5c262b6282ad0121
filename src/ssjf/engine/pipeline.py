"""The only module that knows OpenVINO GenAI: a model in memory, its tokenizer, and one step of generation for all.

What the library gets wrong or leaves open is settled here (its version 2026.4), each where it is met. This module does
not know HTTP, threads, or the order in which requests are served.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ssjf.engine.models import CachePlan, ModelFiles
from ssjf.engine.params import SamplingParams
from ssjf.errors import RequestError, UserError

FinishReason = Literal["stop", "length", "ignored"]

_MIN_BATCHED_TOKENS = 256


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What one step did for one sequence.

    Attributes:
        token_ids: the new tokens; the one that ended the answer is among them.
        finish_reason: None while it runs; ``ignored``: the library gave it up, because its cache is too small.
    """

    token_ids: list[int]
    finish_reason: FinishReason | None


class Pipeline(Protocol):
    """Continuous batching, driven step by step from a single thread."""

    def add(self, request_id: int, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Start a sequence. Ids are never used twice."""

    def cancel(self, request_id: int) -> None:
        """Give a running sequence up; its room is free after the next step."""

    def has_unfinished(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> dict[int, SequenceOutput]:
        """Generate once for all running sequences; what it did by request id."""

    def decode(self, sequences: list[list[int]]) -> list[str]:
        """Texts of token sequences, special tokens left out."""


class GenAITokenizer:
    """A model's tokenizer; may be used from any thread.

    Args:
        tokenizer: of OpenVINO GenAI.
        vocab_size: token ids are below it.
        max_model_len: the longest prompt that can be of use, in tokens.
    """

    def __init__(self, tokenizer: Any, *, vocab_size: int, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_prompt_bytes = max_model_len * max(map(len, tokenizer.get_vocab()))
        # GGUF tokenizers silently cut every text at 8,192 tokens, whatever `max_length` says. A result of that many
        # may have been cut. The probe has a token per letter at least, as no vocabulary has runs of alternating ones.
        self._cut_at = len(self._encode("a b " * 2 * max_model_len, add_special_tokens=False))

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int] | None:
        """The tokens of a text; None if there are more than the model could ever take."""
        if len(text.encode()) > self._max_prompt_bytes:  # spares the event loop the work: encoding takes 0.1 s per MB
            return None
        tokens = self._encode(text, add_special_tokens=add_special_tokens)
        return tokens if len(tokens) < self._cut_at else None

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the text that the model was trained on.

        Raises:
            RequestError: the model has no chat template, or it refuses this conversation.
        """
        if not self._tokenizer.chat_template:
            raise RequestError("this model has no chat template; use /v1/completions", param="messages")
        try:
            return str(self._tokenizer.apply_chat_template(messages, True))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RequestError(
                f"the model's chat template refuses this conversation: {reason}", param="messages"
            ) from None

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids.data[0].tolist()
        return ids


class GenAIPipeline:
    """A model loaded by OpenVINO GenAI.

    Args:
        pipeline: a ContinuousBatchingPipeline.
        tokenizer: its tokenizer.
    """

    def __init__(self, pipeline: Any, tokenizer: Any) -> None:
        self._genai = _import_genai()
        self._pipeline = pipeline
        self._tokenizer = tokenizer
        self._handles: dict[int, Any] = {}
        defaults = pipeline.get_config()
        self._eos_token_id: int = defaults.eos_token_id
        self._eos_token_ids: set[int] = set(defaults.stop_token_ids) | {defaults.eos_token_id}

    def add(self, request_id: int, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Start a sequence. Ids are never used twice."""
        import numpy as np  # noqa: PLC0415 - with the library, only where a model is loaded
        import openvino  # noqa: PLC0415

        prompt = openvino.Tensor(np.array([prompt_token_ids], dtype=np.int64))
        self._handles[request_id] = self._pipeline.add_request(request_id, prompt, self._config(params))

    def cancel(self, request_id: int) -> None:
        """Give a running sequence up; its room is free after the next step."""
        self._handles.pop(request_id).cancel()

    def has_unfinished(self) -> bool:
        """Whether a step would do anything: also with nothing left but a cancelled sequence to clear away."""
        return bool(self._pipeline.has_non_finished_requests())

    def step(self) -> dict[int, SequenceOutput]:
        """Generate once for all running sequences; what it did by request id."""
        self._pipeline.step()
        status = self._genai.GenerationStatus
        outputs = {}
        for request_id, handle in list(self._handles.items()):
            token_ids: list[int] = []
            finish_reason: FinishReason | None = None
            while handle.can_read():  # without it, read() waits for ever and holds the interpreter lock
                for output in handle.read().values():
                    token_ids += output.generated_ids
                    finish_reason = _FINISH_REASONS.get(output.finish_reason.name)
            if finish_reason is None and handle.get_status() == status.IGNORED:
                finish_reason = "ignored"
            if finish_reason is not None:
                del self._handles[request_id]
            if token_ids or finish_reason is not None:
                outputs[request_id] = SequenceOutput(token_ids, finish_reason)
        return outputs

    def decode(self, sequences: list[list[int]]) -> list[str]:
        """Texts of token sequences, special tokens left out."""
        texts: list[str] = self._tokenizer.decode(sequences)
        return texts

    def _config(self, params: SamplingParams) -> Any:
        config = self._genai.GenerationConfig(
            max_new_tokens=params.max_tokens,
            min_new_tokens=params.min_tokens,
            ignore_eos=params.ignore_eos,
            eos_token_id=self._eos_token_id,
            stop_token_ids=self._eos_token_ids | params.stop_token_ids,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
        )
        if not params.greedy:  # the library refuses a temperature of 0
            config.do_sample = True
            config.temperature = params.temperature
            config.top_p = params.top_p
            if params.top_k:
                config.top_k = params.top_k
            # the library's own default is the same seed for every request
            config.rng_seed = random.getrandbits(63) if params.seed is None else params.seed % 2**64
        return config


_FINISH_REASONS: dict[str, FinishReason] = {"STOP": "stop", "LENGTH": "length"}


def load(
    files: ModelFiles, plan: CachePlan, *, max_num_seqs: int, num_threads: int
) -> tuple[GenAIPipeline, GenAITokenizer]:
    """Load a model for generation on CPU.

    Args:
        files: the model.
        plan: how much to hold at once.
        max_num_seqs: sequences that will run at once.
        num_threads: of inference.

    Raises:
        UserError: the library is not installed or refuses the model.
    """
    genai = _import_genai()
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = plan.num_kv_blocks
    scheduler.max_num_seqs = max_num_seqs  # the library does not keep to it in this mode; the worker does
    scheduler.max_num_batched_tokens = max(_MIN_BATCHED_TOKENS, max_num_seqs)
    try:
        # With more threads, idle ones spin between steps and take the time of those that compute.
        tokenizer = genai.Tokenizer(str(files.path), INFERENCE_NUM_THREADS=1)
        pipeline = genai.ContinuousBatchingPipeline(
            str(files.path),
            tokenizer,
            scheduler,
            "CPU",
            INFERENCE_NUM_THREADS=num_threads,
            # The same answers on every CPU and in every batch; in bf16, which the library takes where the CPU has
            # it, a single thread ends in a division by zero that kills the process.
            INFERENCE_PRECISION_HINT="f32",
        )
        return GenAIPipeline(pipeline, tokenizer), GenAITokenizer(
            tokenizer, vocab_size=files.vocab_size, max_model_len=plan.max_model_len
        )
    except Exception as error:  # noqa: BLE001 - for a missing tensor, for one, the library raises IndexError
        raise UserError(f"model {files.path} cannot be loaded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What the library complains about, without its source paths and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("Exception from", "Check '"))), type(error).__name__)


def _import_genai() -> Any:
    """OpenVINO GenAI, with its telemetry made impossible.

    The package `openvino` reports uses of its converter through the package `openvino_telemetry`, unless a file in the
    user's home declines; where that package cannot be imported it puts an empty stub in its place. So its import is
    made to fail, in this process, before `openvino` is imported. Nothing is written to the user's home.

    Raises:
        UserError: the extra is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # documented: None blocks an import
    try:
        import openvino_genai  # noqa: PLC0415 - heavy, and an extra
    except ImportError as error:
        raise UserError(f"the embedded engine needs `pip install 'ssjf[engine]'` ({error})") from None
    return openvino_genai
