"""What a prompt asks for, as some seventy numbers: a row of features for trees.

The request proper is the last message of the user (of a bare prompt: all of it), and its question is what stands
before a list of options. Measured are the size and the look of both, requested lengths and counts ("in 3 sentences",
"ten ideas"), the groups of words of `ssjf.predict.trees.lexicon`, what the request begins with and ends on, and the
position in a conversation with the lengths of its earlier answers.

Everything is a function of the text. `Request.max_tokens` is deliberately left out, as by the family ngram: hosts
cut predictions off there anyway. This module does not know what is predicted.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from ssjf.openai import rendered_turns
from ssjf.predict.ngram.features import KEPT_CHARACTERS, Float64
from ssjf.predict.trees.lexicon import GROUPS, ITEMS, NUMERALS, OPENERS, TOKENS_PER_UNIT, count_groups

FORMAT = 1
"""Trees grown on rows of one format mean nothing on another's; raise it with any change to a row."""

NONE = -1.0
"""The value of a feature that a prompt does not have."""

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?](?:\s+|\Z)|\n+")
_OPTION = re.compile(r"^[ \t]*\(?([A-Za-z]|\d{1,2})[.):][ \t]+(\S.*)$", re.MULTILINE)
_UNITS = "|".join(TOKENS_PER_UNIT)
_REQUESTED = re.compile(
    rf"\b(\d{{1,5}}|{'|'.join(NUMERALS)})[ -]+(?:[a-z]+ ){{0,2}}?({_UNITS}|{'|'.join(ITEMS)})(?:e?s)?\b"
)
_CODE_SIGNS = "{};`"
_MATH_SIGNS = "=+*/^<>\\%×√∫≤≥π°$"
_EAST_ASIAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

_SIZE = ("characters", "words", "lines", "sentences", "first sentence", "last sentence", "last line")
_LOOK = (
    "characters per word",
    "distinct words",
    "digits",
    "capitals",
    "commas",
    "beyond ASCII",
    "East Asian",
    "mathematical signs",
    "signs of code",
    "quotation marks",
    "gaps to fill",
    "question marks",
    "ends on ?",
    "ends on :",
)
_QUESTION = ("words", "numbers", "mathematical signs", "capitalised words")
_OPTIONS = ("number", "characters each", "their spread", "with digits first", "digits", "with capitals", "with stops")
_REQUESTS = ("requested tokens", "requested items", "requests for an amount")
_WORDS_AT = ("first word", "second word", "first word of the last sentence")
_LAST_SENTENCE = ("brief", "enumeration", "creation", "explanation", "calculation", "negation", "reference")
_CONVERSATION = (
    "characters of everything",
    "characters of the system's message",
    "answers so far",
    "characters of the last answer",
    "characters of the answers, mean",
)
NAMES = (
    *_SIZE,
    *_LOOK,
    *(f"question: {name}" for name in _QUESTION),
    *(f"options: {name}" for name in _OPTIONS),
    *_REQUESTS,
    *(f"lexicon: {name}" for name in GROUPS),
    *_WORDS_AT,
    *(f"last sentence: {name}" for name in _LAST_SENTENCE),
    *_CONVERSATION,
)
"""Of the features, in the order of a row."""


def describe(prompts: Sequence[str]) -> Float64:
    """The rows of some prompts; shape (n, len(NAMES)). Any string has one: empty, of a megabyte, in any script.

    Cost: about 0.25 ms for a prompt of 200 words, about 10 ms for a megabyte, and more only for a conversation of
    tens of thousands of messages.
    """
    return np.array([_describe(prompt) for prompt in prompts], dtype=np.float64).reshape(len(prompts), len(NAMES))


def _describe(prompt: str) -> list[float]:
    request, conversation = _split_conversation(prompt)
    text = _shorten(request)
    options = _OPTION.findall(text)
    question = text
    if len(options) > 1 and options[0][0] in "Aa1":
        question = text[: _first_option(text)] or text
    else:
        options = []
    words = _WORD.findall(text.lower())
    asked = _WORD.findall(question.lower()) if options else words
    sentences = [part for part in _SENTENCE_END.split(question) if part.strip()] or [""]
    last = _WORD.findall(sentences[-1].lower())
    return [
        *_size(request, text, words, sentences),
        *_look(text, words),
        *_of_question(question, asked),
        *_of_options([option for _, option in options]),
        *_requested(question),
        *map(math.log1p, count_groups(asked)),
        *(float(OPENERS.get(word, 0)) for word in (*(*asked, "", "")[:2], *(*last, "")[:1])),
        *_of_last_sentence(last),
        *conversation,
    ]


def _shorten(text: str) -> str:
    return text if len(text) <= 2 * KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]}\n{text[-KEPT_CHARACTERS:]}"


def _split_conversation(prompt: str) -> tuple[str, list[float]]:
    """The request proper, and the features of the conversation that it ends."""
    turns = rendered_turns(prompt)
    request = next((text for role, text in reversed(turns) if role == "user"), prompt)
    answers = [len(text) for role, text in turns if role == "assistant"]
    system = sum(len(text) for role, text in turns if role in {"system", "developer"})
    return request, [
        math.log1p(len(prompt)),
        math.log1p(system),
        math.log1p(len(answers)),
        math.log1p(answers[-1]) if answers else NONE,
        math.log1p(sum(answers) / len(answers)) if answers else NONE,
    ]


def _first_option(text: str) -> int:
    match = _OPTION.search(text)
    return match.start() if match else len(text)


def _size(request: str, text: str, words: list[str], sentences: list[str]) -> list[float]:
    lines = text.strip().split("\n")
    numbers = (
        len(request),
        len(words),
        len(lines),
        len(sentences),
        len(sentences[0].split()),
        len(sentences[-1].split()),
        len(lines[-1].split()),
    )
    return [math.log1p(number) for number in numbers]


def _look(text: str, words: list[str]) -> list[float]:
    size, num_words = max(len(text), 1), max(len(words), 1)
    ascii_size = len(text.encode("ascii", "ignore"))
    end = text.rstrip()[-1:]
    return [
        sum(map(len, words)) / num_words,
        len(set(words)) / num_words,
        sum(map(text.count, "0123456789")) / size,
        sum(map(str.isupper, text)) / size,
        text.count(",") / num_words,
        1 - ascii_size / size,
        len(_EAST_ASIAN.findall(text)) / size if ascii_size < len(text) else 0.0,
        sum(map(text.count, _MATH_SIGNS)) / size,
        math.log1p(sum(map(text.count, _CODE_SIGNS))),
        math.log1p(sum(map(text.count, '"“”'))),
        math.log1p(text.count("__")),
        math.log1p(text.count("?")),
        float(end == "?"),
        float(end == ":"),
    ]


def _of_question(question: str, words: list[str]) -> list[float]:
    return [
        math.log1p(len(words)),
        math.log1p(len(_NUMBER.findall(question))),
        math.log1p(sum(map(question.count, _MATH_SIGNS))),
        sum(word[:1].isupper() for word in question.split()) / max(len(words), 1),
    ]


def _of_options(options: list[str]) -> list[float]:
    if not options:
        return [0.0, *[NONE] * (len(_OPTIONS) - 1)]
    sizes = [len(option) for option in options]
    mean = sum(sizes) / len(sizes)
    return [
        float(len(options)),
        math.log1p(mean),
        math.sqrt(sum((size - mean) ** 2 for size in sizes) / len(sizes)) / mean,
        sum(option.lstrip("-$( ")[:1].isdigit() for option in options) / len(options),
        sum(sum(map(str.isdigit, option)) for option in options) / sum(sizes),
        sum(option[0].isupper() for option in options) / len(options),
        sum(option.rstrip().endswith(".") for option in options) / len(options),
    ]


def _requested(question: str) -> list[float]:
    tokens = items = NONE
    found = _REQUESTED.findall(question.lower())
    for number, unit in found:
        amount = NUMERALS.get(number) or int(number)
        if unit in TOKENS_PER_UNIT:
            tokens = max(tokens, math.log1p(amount * TOKENS_PER_UNIT[unit]))
        else:
            items = max(items, math.log1p(amount))
    return [tokens, items, float(len(found))]


_LAST_SENTENCE_GROUPS = [GROUPS.index(name) for name in _LAST_SENTENCE]


def _of_last_sentence(words: list[str]) -> list[float]:
    counts = count_groups(words)
    return [float(counts[group] > 0) for group in _LAST_SENTENCE_GROUPS]
