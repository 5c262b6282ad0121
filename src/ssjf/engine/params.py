"""From a request's JSON to what the engine has to do, or a clear refusal.

Every field that OpenAI or vLLM defines is either obeyed, or known to change nothing here, or refused by name when it
asks for something this engine cannot do. Fields nobody defined are ignored, as other servers do.

This module does not know the model's state, who asks, or how an answer is made.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ssjf.errors import RequestError
from ssjf.openai import JSONObject

_SAMPLING_EPSILON = 1e-5  # below it, as in vLLM, a temperature means greedy decoding
_INT64 = 2**63
_MAX_STOP_STRINGS = 16  # each is looked for at every step, in the thread that generates

# What would change the answer and cannot be done, with the values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "use_beam_search": (False,),
    "min_p": (0, 0.0),
    "bad_words": ([],),
    "include_stop_str_in_output": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class PromptTokenizer(Protocol):
    """What a prompt has to pass to become tokens."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int] | None:
        """The tokens of a text; None if there are more than the model could ever take."""

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the text that the model was trained on.

        Raises:
            RequestError: the model has no chat template, or it refuses this conversation.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to make one answer; names and meanings are vLLM's."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < _SAMPLING_EPSILON


@dataclass(frozen=True, slots=True)
class Call:
    """A request that can be served.

    Attributes:
        prompt_token_ids: at least one; with `params.max_tokens` they fit into the model's context.
        params: how to answer.
        stream: whether the answer is sent as it comes.
        include_usage: whether a stream ends with the token counts.
    """

    prompt_token_ids: list[int]
    params: SamplingParams
    stream: bool
    include_usage: bool


def parse_call(
    body: JSONObject, tokenizer: PromptTokenizer, *, model_name: str, max_model_len: int, chat: bool
) -> Call:
    """Check a request's body and turn its prompt into tokens.

    Args:
        body: the JSON object that the client sent.
        tokenizer: of the model.
        model_name: the only model that is served.
        max_model_len: tokens that prompt and answer may have together.
        chat: whether it is a chat completion; otherwise a plain completion.

    Raises:
        RequestError: it cannot be served as asked; names the field at fault.
    """
    model = _field(body, "model", str, model_name)
    if model != model_name:
        raise RequestError(
            f"the model {model!r} does not exist; {model_name!r} does",
            status=404,
            param="model",
            code="model_not_found",
        )
    for name, harmless in _UNSUPPORTED.items():
        value = body.get(name)
        # type as well as value: in Python 1 == True, and completions take `logprobs: 0` as a wish
        if value is not None and not any(value == h and type(value) is type(h) for h in harmless):
            raise RequestError(f"{name!r} = {_shown(value)} is not supported by this engine", param=name)
    stream = _field(body, "stream", bool, False)
    options = _field(body, "stream_options", dict, {})
    if options and not stream:
        raise RequestError("'stream_options' needs 'stream': true", param="stream_options")
    prompt = _chat_prompt(body, tokenizer) if chat else _completion_prompt(body, tokenizer)
    params = _sampling_params(body, vocab_size=tokenizer.vocab_size, room=_room(prompt, max_model_len, chat=chat))
    return Call(prompt or [], params, stream, _field(options, "include_usage", bool, False))


def _chat_prompt(body: JSONObject, tokenizer: PromptTokenizer) -> list[int] | None:
    messages = _field(body, "messages", list, None)
    if not messages:
        raise RequestError("'messages' must be a list with at least one message", param="messages")
    plain = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    return tokenizer.encode(tokenizer.render_chat(plain), add_special_tokens=False)


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise RequestError(f"{where} must be an object", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(
            f"{where}.role must be one of {', '.join(_ROLES)}, not {_shown(role)}", param=f"{where}.role"
        )
    if message.get("tool_calls") or message.get("function_call"):
        raise RequestError(f"{where}: tool calls are not supported by this engine", param=f"{where}.tool_calls")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not parts:
        raise RequestError(f"{where}.content must be a string or a list of text parts", param=f"{where}.content")
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{where}.content: this engine takes text parts only", param=f"{where}.content")
        texts.append(part["text"])
    return {"role": _ROLES[role], "content": "\n".join(texts)}


def _completion_prompt(body: JSONObject, tokenizer: PromptTokenizer) -> list[int] | None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special_tokens=True) if prompt else []
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise RequestError("'prompt' must be one string or one list of token ids", param="prompt")
    vocab_size = tokenizer.vocab_size
    if not all(0 <= token < vocab_size for token in prompt):
        raise RequestError(f"'prompt' has token ids outside 0 ... {vocab_size - 1}", param="prompt")
    return prompt


def _room(prompt: list[int] | None, max_model_len: int, *, chat: bool) -> int:
    """Tokens that the answer may have, at least one."""
    param = "messages" if chat else "prompt"
    if prompt is not None and not prompt:
        raise RequestError(f"{param!r} is empty", param=param)
    if prompt is None or len(prompt) >= max_model_len:
        size = "far more" if prompt is None else f"{len(prompt)} tokens"
        raise RequestError(
            f"the prompt is too long: it has {size}, the context is {max_model_len} tokens for prompt and answer",
            param=param,
            code="context_length_exceeded",
        )
    return max_model_len - len(prompt)


def _sampling_params(body: JSONObject, *, vocab_size: int, room: int) -> SamplingParams:
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    max_tokens = _integer(body, name, room, low=1)
    if max_tokens > room:
        raise RequestError(
            f"{name!r} is {max_tokens}, but the context has room for {room} tokens after the prompt",
            param=name,
            code="context_length_exceeded",
        )
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise RequestError("'stop' must be a string or a list of strings, none of them empty", param="stop")
    if len(stop) > _MAX_STOP_STRINGS:
        raise RequestError(f"'stop' may have {_MAX_STOP_STRINGS} strings at most", param="stop")
    stop_token_ids = _field(body, "stop_token_ids", list, [])
    if not all(type(token) is int and 0 <= token < vocab_size for token in stop_token_ids):
        raise RequestError(f"'stop_token_ids' must be ids in 0 ... {vocab_size - 1}", param="stop_token_ids")
    seed = None if body.get("seed") is None else _integer(body, "seed", 0, low=-_INT64, high=_INT64 - 1)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=_integer(body, "min_tokens", 0, low=0, high=max_tokens),
        ignore_eos=_field(body, "ignore_eos", bool, False),
        stop=tuple(stop),
        stop_token_ids=frozenset(stop_token_ids),
        temperature=_number(body, "temperature", 1.0, low=0.0, high=100.0),
        top_p=_number(body, "top_p", 1.0, low=1e-6, high=1.0),
        top_k=max(0, _integer(body, "top_k", 0, low=-1)),
        seed=seed,
        presence_penalty=_number(body, "presence_penalty", 0.0, low=-2.0, high=2.0),
        frequency_penalty=_number(body, "frequency_penalty", 0.0, low=-2.0, high=2.0),
        repetition_penalty=_number(body, "repetition_penalty", 1.0, low=0.01, high=100.0),
    )


def _shown(value: Any) -> str:
    """The beginning of a value: of one that is nested deeply `repr` cannot be had."""
    return reprlib.repr(value)[:60]


def _field(body: JSONObject, name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        words = {str: "a string", bool: "true or false", list: "a list", dict: "an object"}
        raise RequestError(f"{name!r} must be {words[kind]}, not {_shown(value)}", param=name)
    return value


def _integer(body: JSONObject, name: str, default: int, *, low: int, high: int | None = None) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is float and value.is_integer() and abs(value) < _INT64:
        value = int(value)
    if type(value) is not int or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(f"{name!r} must be an integer {limits}, not {_shown(value)}", param=name)
    return value


def _number(body: JSONObject, name: str, default: float, *, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:
        raise RequestError(f"{name!r} must be a number from {low:g} to {high:g}, not {_shown(value)}", param=name)
    return float(value)
