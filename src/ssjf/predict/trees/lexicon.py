"""Words and phrases of English prompts that say something about the length of the answer, in groups.

A group is a feature: how often its entries occur in a request. The lists come from what the words mean; none was
kept or dropped by its correlation with a data set; what each is worth is learned. Other languages go without: there the
n-grams have to do. This module does not know what the counts are used for.
"""

_GROUPS = {
    "brief": """
        brief briefly short shortly concise concisely succinct succinctly quick quickly one-word simple simply
        only just | one sentence, single sentence, one word, single word, one paragraph, in a sentence, in a
        word, tl dr, yes or no, true or false, at most, no more than, without explanation, do not explain, don't
        explain
        """,
    "thorough": """
        detail details detailed thorough thoroughly comprehensive elaborate full complete extensive long
        in-depth exhaustive everything | in depth, as much as possible, at least, in detail
        """,
    "steps": """
        step steps reasoning derive prove proof stepwise step-by-step | step by step, show your work, explain
        your, explain how, chain of thought, think through
        """,
    "document": """
        essay article blog story report chapter script speech letter poem plan guide tutorial proposal lesson
        outline song lyrics novel paper syllabus curriculum review conversation dialogue dialog scene
        """,
    "message": """
        email e-mail message memo tweet post caption slogan headline tagline bio announcement notification
        subject title
        """,
    "enumeration": """
        list lists example examples ideas ways tips suggest suggestions suggestion recommend recommendations
        enumerate bullet bullets options reasons top itinerary pros cons advantages disadvantages differences
        difference compare contrast types kinds factors features benefits
        """,
    "short task": """
        classify label categorize categorise identify extract detect sentiment choose select pick spell rate
        score synonym synonyms antonym define definition fill match sort answer | answer with, true or false,
        capital of, what year, who is, who was, who wrote, when did, when was, where is, how old
        """,
    "conversion": "translate translation convert correct grammar fix spelling transcribe",
    "rewriting": """
        rewrite paraphrase rephrase summarize summarise summary edit improve proofread shorten simplify revise
        condense
        """,
    "creation": """
        write create generate compose draft design develop imagine make build invent produce brainstorm | come
        up
        """,
    "explanation": """
        explain describe discuss analyze analyse why evaluate illustrate elaborate justify interpret | how do,
        how does, how can, how to, how did, how would, how is, how are, tell me about, what are, what causes
        """,
    "calculation": """
        calculate compute find determine solve estimate approximate approximately percent percentage equation
        integral derivative probability total sum average ratio rate per | how many, how much, how far, how
        long, how fast, how large, what is the value, what will be
        """,
    "units": """
        kg g mg lb lbs cm mm km m ft inch inches feet meter meters metre metres mile miles mph mol mole moles ml
        l hz khz mhz ghz kw w volt volts v amp amps ohm ohms joule joules kj j pa kpa atm psi btu degree degrees
        k s sec second seconds minute minutes hour hours day days year years dollar dollars cents interest tons
        pounds gallons
        """,
    "formal": """
        theorem hypothesis ring group field matrix vector graph set function polynomial prime integer axiom
        proposition predicate logic statement statements symbolized following let suppose assume
        """,
    "code": """
        python java javascript typescript sql html css rust golang bash latex matlab code program algorithm
        regex class api array loop compile debug bug function script database query unit-test cpp
        """,
    "format": """
        table csv json yaml xml markdown html spreadsheet column columns format template schema dictionary
        bullet-point
        """,
    "role": "pretend roleplay role-play | you are, act as, imagine you, role of, as an expert",
    "harm": """
        kill murder steal stealing hack bomb weapon weapons illegal illegally drug drugs scam fraud fake
        blackmail stalk poison torture rape racist terrorist terrorism terrorists attack abuse bully bullying
        harass harassment explosive explosives cheat sabotage kidnap launder laundering porn sex sexual hate
        destroy manipulate exploit counterfeit malware virus piracy smuggle forge evade bribe nazi suicide stab
        | without getting caught, without permission, without being caught, without them knowing
        """,
    "negation": "not except never without least false incorrect no none neither nor don't doesn't isn't",
    "reference": """
        this passage text paragraph article excerpt above below context following information | refers to,
        according to, based on, given the, given a
        """,
    "condition": "suppose assume if consider given when assuming",
    "you": "you your yours",
    "me": "i my me mine i'm we our us i've",
    "please": """
        please kindly thanks thank hi hello hey | can you, could you, would you, help me, i want, i need, i'd
        like
        """,
}
"""Words, and behind the bar phrases of two or more."""

GROUPS = tuple(_GROUPS)

_OPENERS = """
    what who when where why how which is are can do does did if find calculate write give list
    """
OPENERS = {word: place for place, word in enumerate(_OPENERS.split(), start=1)}
"""Words that a request or its last sentence may begin with, each with a number."""

_NUMERALS = """
    one two three four five six seven eight nine ten eleven twelve
    """
NUMERALS = {word: number for number, word in enumerate(_NUMERALS.split(), start=1)}

TOKENS_PER_UNIT = {
    "character": 0.25,
    "word": 1.3,
    "sentence": 25.0,
    "line": 15.0,
    "bullet": 25.0,
    "verse": 40.0,
    "stanza": 40.0,
    "paragraph": 100.0,
    "minute": 150.0,
    "page": 500.0,
}
"""Roughly, in English; for "in 3 sentences". Minutes are of speech."""

_ITEMS = """
    point example item idea way tip question step reason thing name title fact topic option place suggestion recipe
    method strategy benefit difference type book movie song
    """
ITEMS = tuple(_ITEMS.split())
"""What a request may ask a number of."""


def _entries() -> tuple[dict[str, tuple[int, ...]], dict[str, list[tuple[list[str], int]]]]:
    """The groups of each word; the rest and the group of each phrase, by its first word."""
    words: dict[str, tuple[int, ...]] = {}
    phrases: dict[str, list[tuple[list[str], int]]] = {}
    for group, text in enumerate(_GROUPS.values()):
        its_words, _, its_phrases = text.partition("|")
        for word in its_words.split():
            words[word] = (*words.get(word, ()), group)
        for first, *rest in map(str.split, filter(None, map(str.strip, its_phrases.split(",")))):
            phrases.setdefault(first, []).append((rest, group))
    return words, phrases


_WORDS, _PHRASES = _entries()


def count_groups(words: list[str]) -> list[int]:
    """How often the entries of each of `GROUPS` occur in a text of lower-case words."""
    counts = [0] * len(GROUPS)
    for place, word in enumerate(words, start=1):
        for group in _WORDS.get(word, ()):
            counts[group] += 1
        for rest, group in _PHRASES.get(word, ()):
            if words[place : place + len(rest)] == rest:
                counts[group] += 1
    return counts
