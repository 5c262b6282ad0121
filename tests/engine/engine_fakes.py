"""A pipeline and a tokenizer that need no model: a token is a byte, and each test says what is generated."""

import threading
from collections.abc import Callable, Sequence

from ssjf.engine.params import SamplingParams
from ssjf.engine.pipeline import SequenceOutput

EOS = 0


class FakePipeline:
    """Generates what `answer` says for a prompt, then the letter x for ever; byte 0 ends it.

    Args:
        answer: from the prompt's bytes to the answer's.
        free_running: otherwise a step is made only when the test allows it through `allow`.
    """

    def __init__(self, answer: Callable[[bytes], bytes] = lambda _: b"", *, free_running: bool = True) -> None:
        self.answer = answer
        self.free_running = free_running
        self.started: list[bytes] = []
        self.most_at_once = 0
        self.fault_at_step: int | None = None
        self.ignore: set[bytes] = set()
        self._allowed = threading.Semaphore(0)
        self._num_steps = 0
        self._left: dict[int, tuple[bytes, list[int], SamplingParams]] = {}

    def allow(self, steps: int) -> None:
        self._allowed.release(steps)

    def add(self, request_id: int, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        prompt = bytes(prompt_token_ids)
        if prompt == b"refuse":
            raise RuntimeError("not this one")
        self.started.append(prompt)
        answer = list((self.answer(prompt) + b"x" * params.max_tokens)[: params.max_tokens])
        self._left[request_id] = (prompt, answer, params)
        self.most_at_once = max(self.most_at_once, len(self._left))

    def cancel(self, request_id: int) -> None:
        del self._left[request_id]

    def has_unfinished(self) -> bool:
        return bool(self._left)

    def step(self) -> dict[int, SequenceOutput]:
        if not self.free_running:
            self._allowed.acquire()
        self._num_steps += 1
        if self._num_steps == self.fault_at_step:
            raise RuntimeError("injected fault")
        outputs = {}
        for request_id, (prompt, answer, params) in list(self._left.items()):
            if prompt in self.ignore:
                outputs[request_id] = SequenceOutput([], "ignored")
                del self._left[request_id]
                continue
            token = answer.pop(0)
            ended = token == EOS and not params.ignore_eos
            finish_reason = "stop" if ended else None if answer else "length"
            outputs[request_id] = SequenceOutput([token], finish_reason)
            if finish_reason is not None:
                del self._left[request_id]
        return outputs

    def decode(self, sequences: list[list[int]]) -> list[str]:
        return [bytes(token for token in sequence if token != EOS).decode("utf-8", "replace") for sequence in sequences]


class FakeTokenizer:
    """A token is a byte; a conversation is its contents, joined."""

    vocab_size = 256

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int] | None:
        del add_special_tokens
        return list(text.encode())

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        return "|".join(f"{message['role']}:{message['content']}" for message in messages)
