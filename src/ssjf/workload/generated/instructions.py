"""A small language of instructions and answers, made up by rule: what the bundled model is trained to speak.

Every prompt has one reference answer, a pure function of what is asked (the greeting around the question changes
nothing). Answers are from one word to some eight hundred words long, and most of this can be guessed from the prompt,
as with real requests: some prompts name a number, in digits or words, some say "short" or "very long", and some only
name a topic, which has a typical length of its own that no rule explains (`_whim`). Long answers count their parts
("Chapter 3 of 7", "3/7"), because a very small model knows by that where to stop.

The prompts fall into splits by a hash of their text, so the demo's prompts are among neither those that the model nor
those that a length predictor was trained on. The module does not know any model or tokenizer: lengths here are words,
and what a model makes of them has to be measured.
"""

import hashlib
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ssjf.workload.generated import instruction_words as words

Split = Literal["train", "predictor", "demo"]

# Of a thousand prompts; the model needs the most. The three ranges follow each other and fill 0..999.
_SPLITS: dict[Split, range] = {"train": range(600), "predictor": range(600, 800), "demo": range(800, 1000)}

_GREETING_TEXTS = (  # most people begin with none
    "||||Hello! |Hi, |Good morning. |Quick question: |I need your help. |Please help me: |"
    "My friend asks: |For my class: |One more thing: |Just curious: |Dear assistant, |Here is a task: "
)
_GREETINGS = tuple(_GREETING_TEXTS.split("|"))
_THANKS = ("", "", "", "", " Thanks!", " Thank you.", " Please.", " Thanks in advance.", " I am waiting.")
_SIZES = {"very short ": 0.35, "short ": 0.6, "": 1.0, "long ": 1.7, "very long ": 2.6}
_AUDIENCES = ("", " for my daughter", " for my son", " for a friend", " for my teacher", " for grandmother")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One thing to ask and the answer that is right in this language.

    Attributes:
        kind: The family of the instruction, such as "story" or "sum".
        prompt: What the user says.
        answer: The reference answer.
    """

    kind: str
    prompt: str
    answer: str


def split_of(prompt: str) -> Split:
    """Tell to which split a prompt belongs; the same text always belongs to the same one."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % 1000
    return next(name for name, buckets in _SPLITS.items() if bucket in buckets)


def generate(split: Split, count: int, seed: int) -> list[Instruction]:
    """Draw `count` instructions from a split; the shortest questions come up more than once, as with real users.

    Args:
        split: "train" for the model, "predictor" for length predictors, "demo" for measurements.
        count: How many.
        seed: The same seed gives the same instructions in the same order.

    Raises:
        ValueError: If `split` is not one of the three.
    """
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(_SPLITS)}")
    rng = random.Random(seed)  # noqa: S311 (no secrets here)
    drawn: list[Instruction] = []
    while len(drawn) < count:
        (kind,) = rng.choices(tuple(_KINDS), weights=_WEIGHTS)
        question, answer = _KINDS[kind][1](rng)
        prompt = f"{rng.choice(_GREETINGS)}{question}{rng.choice(_THANKS)}"
        if split_of(prompt) == split:
            drawn.append(Instruction(kind=kind, prompt=prompt, answer=answer))
    return drawn


def _whim(spread: int, *about: str) -> int:
    """A number from -spread to spread that depends on `about` and nothing else."""
    return zlib.crc32("|".join(about).encode()) % (2 * spread + 1) - spread


def _amount(rng: random.Random, low: int, high: int) -> tuple[str, int]:
    """A number between `low` and `high`, both included, and a way to write it: in digits or, up to twenty, in words."""
    number = rng.randint(low, high)
    in_words = number < len(words.NUMBER_WORDS) and rng.random() < 0.6
    return (words.NUMBER_WORDS[number] if in_words else str(number)), number


def _sized(size: str, base: int, most: int, *about: str) -> int:
    """Parts that an answer has: the topic's usual number, scaled by the size asked for, give or take a whim."""
    return max(1, min(most, round(base * _SIZES[size]) + (_whim(1, size, *about) if base > 2 else 0)))


def _article(noun_phrase: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def _sentence(text: str) -> str:
    """Make the first letter a capital."""
    return text[:1].upper() + text[1:]


def _yes_no(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        one, other = rng.sample(tuple(words.ANIMALS), 2)
        while words.ANIMALS[one][4] == words.ANIMALS[other][4]:
            one, other = rng.sample(tuple(words.ANIMALS), 2)
        bigger = words.ANIMALS[one][4] > words.ANIMALS[other][4]
        return f"Is {_article(one)} bigger than {_article(other)}?", "Yes." if bigger else "No."
    category, other = rng.sample(tuple(words.CATEGORIES), 2)
    item = rng.choice(words.CATEGORIES[category].split())
    asked = rng.choice((category, other))
    return f"Does {item} belong to the {asked}?", "Yes." if item in words.CATEGORIES[asked].split() else "No."


def _fact(rng: random.Random) -> tuple[str, str]:
    animal = rng.choice(tuple(words.ANIMALS))
    home, food, colour, character, _ = words.ANIMALS[animal]
    return rng.choice(
        (
            (f"Where does the {animal} live?", f"The {animal} lives in {home}."),
            (f"What does the {animal} eat?", _sentence(f"{food}.")),
            (f"What colour is the {animal}?", _sentence(f"{colour}.")),
            (f"What is the {animal} like?", f"The {animal} is {character}."),
        )
    )


def _opposite(rng: random.Random) -> tuple[str, str]:
    word, opposite = rng.choice(tuple(words.OPPOSITES.items()))
    if rng.random() < 0.5:
        word, opposite = opposite, word
    question = rng.choice(
        ("What is the opposite of {}?", "Tell me the opposite of {}.", "Give one word: the reverse of {}?")
    )
    return question.format(word), _sentence(f"{opposite}.")


def _sum(rng: random.Random) -> tuple[str, str]:
    (first_text, first), (second_text, second) = _amount(rng, 1, 12), _amount(rng, 1, 12)
    if rng.random() < 0.6:
        return f"What is {first_text} plus {second_text}?", f"{first + second}."
    total, lines = 0, []
    terms = [rng.randint(1, 9) for _ in range(rng.randint(3, 9))]
    for term in terms:
        lines.append(f"{total} + {term} = {total + term}")
        total += term
    return f"Add {', '.join(map(str, terms))} step by step.", "\n".join([*lines, f"The sum is {total}."])


def _spell(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(words.SPELLING_WORDS)
    question = rng.choice(("Spell the word {}.", "How do you spell {}?", "Spell {} letter by letter."))
    return question.format(word), "-".join(word)


def _greeting(rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            ("How are you today?", "I am well, thank you. How can I help you?"),
            ("Who are you?", "I am a very small language model. I know a few words and like short questions."),
            ("What can you do?", "I can count, spell, add, make lists and tables, give advice and tell stories."),
            ("Nice to meet you.", "Nice to meet you too!"),
        )
    )


def _compare(rng: random.Random) -> tuple[str, str]:
    one, other = rng.sample(tuple(words.ANIMALS), 2)
    lines = []
    for animal in (one, other):
        home, food, colour, character, _ = words.ANIMALS[animal]
        lines.append(f"The {animal} is {colour} and {character}, lives in {home} and eats {food}.")
    first, second = words.ANIMALS[one][4], words.ANIMALS[other][4]
    verdict = (
        "They are about the same size."
        if first == second
        else f"The {one if first > second else other} is the bigger of the two."
    )
    question = rng.choice(("Compare the {} and the {}.", "What is the difference between the {} and the {}?"))
    return question.format(one, other), " ".join([*lines, verdict])


def _repeat(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(words.SPELLING_WORDS)
    text, number = _amount(rng, 2, 30)
    question = rng.choice(("Write the word {} {} times.", "Repeat {} {} times.", "Say {} {} times in a numbered list."))
    return question.format(word, text), "\n".join(f"{index}/{number} {word}" for index in range(1, number + 1))


def _count(rng: random.Random) -> tuple[str, str]:
    start = rng.randint(1, 60)
    end = start + rng.randint(1, 40)
    if rng.random() < 0.7:
        return f"Count from {start} to {end}.", f"{' '.join(map(str, range(start, end + 1)))}."
    return f"Count down from {end} to {start}.", f"{' '.join(map(str, range(end, start - 1, -1)))}."


def _list(rng: random.Random) -> tuple[str, str]:
    category = rng.choice(tuple(words.CATEGORIES))
    items = words.CATEGORIES[category].split()
    choice = rng.random()
    if choice < 0.4:
        text, number = _amount(rng, 2, len(items))
    elif choice < 0.8:
        text, number = rng.choice(tuple(words.VAGUE_COUNTS.items()))
    else:
        text, number = "all the", len(items)
    number = min(number, len(items))
    lines = [f"{index}/{number} {item}" for index, item in enumerate(items[:number], 1)]
    if rng.random() < 0.3:
        lines = [f"{line}: one of the {category} I like." for line in lines]
        return f"List {text} {category} and say a word about each.", "\n".join(lines)
    question = rng.choice(("List {} {}.", "Name {} {} that you know.", "Give me {} {}."))
    return question.format(text, category), "\n".join(lines)


def _steps(rng: random.Random) -> tuple[str, str]:
    task = rng.choice(tuple(words.TASKS))
    steps = [_sentence(step) for step in words.TASKS[task].split("|")]
    style = rng.choice(("", "", " in one sentence", " in detail"))
    question = rng.choice(("How do I {}{}?", "Explain how to {}{}.", "Tell me{1} how to {0}.")).format(task, style)
    if style == " in one sentence":
        return question, f"{steps[0]}, then {steps[1].lower()}, and at the end {steps[-1].lower()}."
    lines = [f"Step {index} of {len(steps)}: {step}." for index, step in enumerate(steps, 1)]
    if style == " in detail":
        offset = _whim(3, task)
        details = words.STEP_DETAILS
        lines = [f"{line} {details[(offset + index) % len(details)]}" for index, line in enumerate(lines)]
    return question, "\n".join(lines)


def _table(rng: random.Random) -> tuple[str, str]:
    text, number = _amount(rng, 2, len(words.ANIMALS))
    columns = rng.choice((("home",), ("food",), ("home", "food"), ("home", "food", "colour")))
    rows = [f"| number | animal | {' | '.join(columns)} |", "|" + " --- |" * (2 + len(columns))]
    for index, (animal, (home, food, colour, _, _)) in enumerate(tuple(words.ANIMALS.items())[:number], 1):
        cells = {"home": home, "food": food, "colour": colour}
        rows.append(f"| {index}/{number} | {animal} | {' | '.join(cells[column] for column in columns)} |")
    question = rng.choice(("Make a table of {} animals with {}.", "Show {} animals in a table with {}."))
    return question.format(text, " and ".join(columns)), "\n".join(rows)


def _describe(rng: random.Random) -> tuple[str, str]:
    animal = rng.choice(tuple(words.ANIMALS))
    home, food, colour, character, size = words.ANIMALS[animal]
    style = rng.choice(("", " in one sentence", " in detail"))
    sentences = [
        f"The {animal} is {_article(colour)} animal that lives in {home}.",
        f"It is known to be {character} and it likes to eat {food}.",
        f"Compared with other animals it is {'small' if size < 4 else 'large' if size > 6 else 'of middle size'}.",
        f"In the morning the {animal} looks for {food} and does not go far.",
        f"At noon it rests somewhere in {home}, where nobody can see it.",
        f"When night falls the {animal} listens, because even {_article(character)} animal must be careful.",
        f"People tell many tales about the {animal}, and most of them are kind.",
        f"If you ever see one in {home}, stand still and watch.",
    ]
    shown = {" in one sentence": 1, "": 3 + _whim(1, animal), " in detail": 7 + _whim(1, animal, "detail")}[style]
    question = rng.choice(("Describe the {}{}.", "Tell me about the {}{}.", "What do you know about the {}{}?"))
    return question.format(animal, style), " ".join(sentences[:shown])


def _story(rng: random.Random) -> tuple[str, str]:
    topic = rng.choice(tuple(words.STORIES))
    name, place, friend, thing, base = words.STORIES[topic]
    size, audience = rng.choice(tuple(_SIZES)), rng.choice(_AUDIENCES)
    chapters = _sized(size, base, len(words.STORY_CHAPTERS), topic, audience)
    slots = {"topic": topic, "name": name, "place": place, "friend": friend, "thing": thing}
    lines = [
        f"Chapter {index} of {chapters}. {_sentence(text.format(**slots))}"
        for index, text in enumerate(words.STORY_CHAPTERS[:chapters], 1)
    ]
    opening, ending = words.STORY_OPENING.format(**slots), words.STORY_ENDING.format(**slots)
    question = rng.choice(("Tell me a {}story about {}{}.", "Write a {}story about {}{}.", "I want a {}tale of {}{}."))
    return question.format(size, topic, audience), "\n".join([opening, *lines, ending])


def _guide(rng: random.Random) -> tuple[str, str]:
    subject = rng.choice(tuple(words.SUBJECTS))
    base, tool, place = words.SUBJECTS[subject]
    size, audience = rng.choice(tuple(_SIZES)), rng.choice(_AUDIENCES)
    parts = _sized(size, base, len(words.GUIDE_SECTIONS), subject, audience)
    lines = [f"A guide to {subject}"]
    for index, (title, text) in enumerate(tuple(words.GUIDE_SECTIONS.items())[:parts], 1):
        lines.append(f"{index} of {parts}. {title}. {_sentence(text.format(subject=subject, tool=tool, place=place))}")
    question = rng.choice(
        ("Write a {}guide to {}{}.", "Explain {1} to me in a {0}text{2}.", "Write a {}essay on {}{}.")
    )
    return question.format(size, subject, audience), "\n".join(lines)


def _trip(rng: random.Random) -> tuple[str, str]:
    city = rng.choice(words.CATEGORIES["cities"].split())
    stay = rng.choices(tuple(words.STAYS), weights=(4, 4, 4, 4, 3, 2, 1))[0]
    days = words.STAYS[stay]
    offset = _whim(20, city)
    lines = []
    for day in range(1, days + 1):
        morning, noon, evening = (
            options[(offset + day) % len(options)] for options in (words.MORNINGS, words.NOONS, words.EVENINGS)
        )
        lines.append(f"Day {day} of {days} in {city}: {morning}, {noon}, then {evening}.")
    question = rng.choice(("Plan {} in {}.", "I will spend {} in {}. What should I do?", "Make a plan for {} in {}."))
    return question.format(stay, city), "\n".join(lines)


def _poem(rng: random.Random) -> tuple[str, str]:
    theme = rng.choice(tuple(words.POEMS))
    size, audience = rng.choice(tuple(_SIZES)), rng.choice(_AUDIENCES)
    stanzas = _sized(size, words.POEMS[theme], 8, theme, audience)
    lines = [
        f"{index} of {stanzas}\n{words.STANZAS[(index - 1) % len(words.STANZAS)].format(theme=theme)}"
        for index in range(1, stanzas + 1)
    ]
    question = rng.choice(("Write a {}poem about {}{}.", "I would like a {}poem on {}{}."))
    return question.format(size, theme, audience), "\n".join(lines)


def _talk(rng: random.Random) -> tuple[str, str]:
    topic = rng.choice(tuple(words.TALKS))
    one, other = rng.sample(words.CATEGORIES["jobs"].split(), 2)
    size = rng.choice(("short ", "", "long "))
    rounds = max(2, _sized(size, words.TALKS[topic], len(words.TALK_LINES), topic, one))
    lines = []
    for ask, reply in (*words.TALK_LINES[: rounds - 1], words.TALK_LINES[-1]):
        lines += [f"{_sentence(one)}: {ask.format(topic=topic)}", f"{_sentence(other)}: {reply}"]
    question = "Write a {}conversation between a {} and a {} about {}."
    return question.format(size, one, other, topic), "\n".join(lines)


def _song(rng: random.Random) -> tuple[str, str]:
    colour = rng.choice(words.CATEGORIES["colours"].split())
    text, number = _amount(rng, 2, 20)
    lines = [
        f"{left} {colour} bottles on the wall, one of them falls, {left - 1} left in all."
        for left in range(number, 0, -1)
    ]
    return f"Sing the song of {text} {colour} bottles.", "\n".join(lines)


def _times_table(rng: random.Random) -> tuple[str, str]:
    text, factor = _amount(rng, 2, 12)
    upto = rng.choice((5, 10, 10, 20))
    question = f"Write the times table of {text}" + ("." if upto == 10 else f" up to {upto}.")
    return question, "\n".join(f"{index} x {factor} = {index * factor}" for index in range(1, upto + 1))


# kind: how often it is asked, in parts of the total, and how it is made
_KINDS: dict[str, tuple[float, Callable[[random.Random], tuple[str, str]]]] = {
    "yes-no": (9, _yes_no),
    "fact": (9, _fact),
    "opposite": (4, _opposite),
    "sum": (6, _sum),
    "spell": (5, _spell),
    "greeting": (1.5, _greeting),
    "compare": (5, _compare),
    "repeat": (4, _repeat),
    "count": (6, _count),
    "list": (12, _list),
    "steps": (9, _steps),
    "table": (5, _table),
    "describe": (8, _describe),
    "story": (9, _story),
    "guide": (6, _guide),
    "trip": (5, _trip),
    "poem": (4, _poem),
    "talk": (4, _talk),
    "song": (2, _song),
    "times-table": (3, _times_table),
}
_WEIGHTS = tuple(weight for weight, _ in _KINDS.values())
