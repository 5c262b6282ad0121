"""A small task that can be learned, made-up requests and any text at all."""

import random

from hypothesis import strategies as st

from ssjf.core.types import Request
from ssjf.predict.training import Sample

# everything that a str can hold: lone surrogates, control characters, nothing
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)

_TASKS = {"Say hello": 5, "Translate a word": 9, "List the rivers": 60, "Summarise the book": 150, "Write a story": 600}


def make_samples(count: int, *, seed: int = 0, model: str = "", factor: float = 1.0) -> list[Sample]:
    """Prompts whose length depends on the task named in them, times noise; all prompts differ."""
    rng = random.Random(seed)
    samples = []
    for _ in range(count):
        task, tokens = rng.choice(list(_TASKS.items()))
        prompt = f"{task} of {rng.choice(['a fox', 'the moon', 'Anna', 'old Rome'])}, number {rng.randrange(10**9)}"
        samples.append(Sample(prompt, round(factor * tokens * rng.lognormvariate(0, 0.3)), model))
    return samples


def ask(prompt: str, *, model: str = "", max_tokens: int = 0, request_id: str = "r") -> Request:
    """A request as a host would make it."""
    return Request(request_id=request_id, prompt=prompt, model=model, max_tokens=max_tokens, arrival_time=0.0)
