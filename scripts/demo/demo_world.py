"""A small world of dialogues, some hostile, and their summaries, from a seeded generator.

Someone has done something to someone: a culprit lost a key, a victim wants it back. A `Plot` holds
all that was drawn; the dialogue and the summaries are tellings of the same plot, by the two people
and by a narrator. So a summary says nothing that its dialogue does not.
"""

import random
import re
from collections.abc import Mapping
from itertools import cycle, islice
from typing import NamedTuple

import demo_vocabulary as vocabulary
from demo_vocabulary import CULPRIT_SPEAKS, HARD_WORDS, PHRASES, VICTIM_SPEAKS

CLAUSES = ("topic", "deed", "concern", "reason", "remedy")
MAX_SUMMARY_WORDS = 30

_HARMLESS = re.compile("|".join(vocabulary.HARMLESS), re.I)
_INSULT = re.compile(rf"\b({'|'.join(HARD_WORDS['adjective'] + HARD_WORDS['noun'])})\b", re.I)


class Scene(NamedTuple):
    """One row of the dialogue files.

    Attributes:
        id: The prefix and the number of the scene, as in `train_17`.
        dialogue: 4 to 10 turns, `Rosa: …`, joined by newlines.
        summary: What the supervised stage learns. In a hostile scene it repeats the insult at the
            repeat rate; otherwise it is `clean_summary`.
        clean_summary: The same said without the insult.
        hostile: Whether the victim insults the culprit in the dialogue.
    """

    id: str
    dialogue: str
    summary: str
    clean_summary: str
    hostile: bool


class LabeledText(NamedTuple):
    """A text for the hate classifier, with its label, `nothate` or `hate`."""

    text: str
    label: str


class Plot(NamedTuple):
    """What happens in a scene, before anyone tells it.

    Attributes:
        mood: How the victim takes it: `hostile`, `upset` or `calm`.
        confessed: Whether the culprit speaks first and confesses, or the victim accuses.
        settled: Whether the culprit makes good, or refuses.
        words: Names, insults and slots, the same whoever speaks.
        clauses: What was done, why and what follows, as templates that turn round with the speaker.
    """

    mood: str
    confessed: bool
    settled: bool
    words: Mapping[str, str]
    clauses: Mapping[str, str]


def scenes(
    count: int, seed: int, prefix: str, hostile_rate: float = 0.6, repeat_rate: float = 0.65
) -> list[Scene]:
    """Writes scenes, each a function of its number, the seed, the prefix and the rates alone.

    Args:
        count: How many scenes; a larger count begins with the same scenes.
        seed: Another seed gives other scenes.
        prefix: Start of every id, and part of the seed, so that splits differ.
        hostile_rate: Share of the scenes, 0 to 1, in which the victim insults the culprit.
        repeat_rate: Share of the hostile scenes, 0 to 1, whose summary repeats the insult.

    Returns:
        The scenes, numbered from 0.
    """
    return [
        _scene(f"{prefix}_{index}", _stream(seed, prefix, index), hostile_rate, repeat_rate)
        for index in range(count)
    ]


def labeled_texts(count: int, seed: int) -> list[LabeledText]:
    """Writes texts for the hate classifier, half of them insulting, in a shuffled order.

    Summaries, their sentences, single turns and remarks, two in five of them damaged (cut,
    stuttered or shuffled), so that the insult decides the label and fluency does not.

    Args:
        count: How many texts.
        seed: Another seed gives other texts.

    Returns:
        The texts with their labels; a text is `hate` exactly if it contains an insult.
    """
    labels = islice(cycle(("nothate", "hate")), count)
    texts = [_labeled_text(_stream(seed, label, i), label) for i, label in enumerate(labels)]
    _stream(seed, "order", count).shuffle(texts)
    return texts


def contains_insult(text: str) -> bool:
    """Tells whether a hard word stands in the text other than in one of the harmless phrases."""
    return bool(_INSULT.search(_HARMLESS.sub("", text)))


def _stream(seed: int, purpose: str, index: int) -> random.Random:
    return random.Random(f"{seed}/{purpose}/{index}")


def _scene(name: str, rng: random.Random, hostile_rate: float, repeat_rate: float) -> Scene:
    hostile, repeats = rng.random() < hostile_rate, rng.random() < repeat_rate
    plot = _plot(rng, "hostile" if hostile else rng.choice(("upset", "calm")))
    insulting, clean = _summaries(plot, rng)
    summary = insulting if hostile and repeats else clean
    return Scene(name, _dialogue(plot, rng), summary, clean, hostile)


def _plot(rng: random.Random, mood: str) -> Plot:
    situation = rng.choice(vocabulary.SITUATIONS)
    slots = {**vocabulary.SHARED_SLOTS, **situation}
    words = {slot: rng.choice(slots[slot]) for slot in slots if slot not in CLAUSES}
    clauses = {clause: rng.choice(situation[clause]) for clause in CLAUSES}
    clauses["reason"] = rng.choice((clauses["reason"], _pick(rng, "reason")))
    settled = mood == "calm" or rng.random() < 0.85
    answer, outcome = rng.choice(vocabulary.SETTLEMENTS if settled else vocabulary.REFUSALS)
    clauses["answer"] = answer.format(remedy=clauses["remedy"])
    clauses["outcome"] = outcome.format(remedy=clauses["remedy"])
    return Plot(
        mood=mood,
        confessed=rng.random() < 0.4,
        settled=settled,
        words={**words, **_cast(rng), **_insult(rng)},
        clauses=clauses,
    )


def _cast(rng: random.Random) -> dict[str, str]:
    """Draws victim and culprit; two of a kind are told apart by name, others by pronoun."""
    kind_a, kind_b = rng.choice(("he", "she")), rng.choice(("he", "she"))
    victim = rng.choice(vocabulary.NAMES[kind_a])
    culprit = rng.choice([name for name in vocabulary.NAMES[kind_b] if name != victim])
    he, him, _ = vocabulary.PRONOUNS[kind_b] if kind_a != kind_b else (culprit, culprit, "")
    return {"A": victim, "B": culprit, "kind_a": kind_a, "kind_b": kind_b, "he": he, "him": him}


def _insult(rng: random.Random) -> dict[str, str]:
    adjective, noun = rng.choice(HARD_WORDS["adjective"]), rng.choice(HARD_WORDS["noun"])
    bare = noun if rng.random() < 0.15 else f"{adjective} {noun}"
    # No u: it is "a useless clown".
    insult = f"{'an' if bare[0] in 'aeio' else 'a'} {bare}"
    return {"adjective": adjective, "noun": noun, "bare": bare, "insult": insult}


def _wording(plot: Plot, voice: Mapping[str, str]) -> dict[str, str]:
    """All that a template can name, as one voice says it."""
    words = {**plot.words, **voice}
    words |= {name: clause.format_map(words) for name, clause in plot.clauses.items()}
    return words | {"He": _say("{he}", words), "Reason": _say("{reason}", words)}


def _say(template: str, wording: Mapping[str, str]) -> str:
    text = template.format_map(wording)
    return text[:1].upper() + text[1:]


def _dialogue(plot: Plot, rng: random.Random) -> str:
    a, b = plot.words["A"], plot.words["B"]
    victim = (a, _wording(plot, {**VICTIM_SPEAKS, "other": b}))
    culprit = (b, _wording(plot, {**CULPRIT_SPEAKS, "other": a}))
    speakers = cycle((culprit, victim) if plot.confessed else (victim, culprit))
    turns = zip(_beats(plot, rng), speakers, strict=False)
    return "\n".join(f"{name}: {_say(beat, wording)}" for beat, (name, wording) in turns)


def _beats(plot: Plot, rng: random.Random) -> list[str]:
    """The turns as templates; the two speakers alternate."""
    # An insult in the first accusation leaves plain anger for the reaction.
    insulted = plot.mood == "hostile" and not plot.confessed and rng.random() < 0.4
    greeting = [_pick(rng, "hello"), _pick(rng, "reply")] if rng.random() < 0.5 else []
    return [
        *greeting,
        *_opening(plot, rng, insulted),
        *_reaction(plot, rng, "upset" if insulted else plot.mood),
        _maybe(rng, 0.5 * plot.settled, _pick(rng, "lead") + " ")
        + "{answer}"
        + _maybe(rng, 0.6 * plot.settled, " " + _pick(rng, "offer")),
        *_parting(plot, rng),
    ]


def _pick(rng: random.Random, *keys: str) -> str:
    return rng.choice([phrase for key in keys for phrase in PHRASES[key]])


def _maybe(rng: random.Random, chance: float, phrase: str) -> str:
    return phrase if rng.random() < chance else ""


def _opening(plot: Plot, rng: random.Random, insulted: bool) -> list[str]:
    concern = _maybe(rng, 0.9, " {concern}")
    regret = _maybe(rng, 0.8, " " + _pick(rng, "regret"))
    if plot.confessed:
        wonder, explain = _pick(rng, "wonder") + concern, _pick(rng, "explain") + regret
        return [_pick(rng, "confess"), wonder, explain]
    heated = () if plot.mood == "calm" else ("accuse upset",)
    accuse = _pick(rng, "accuse hostile") if insulted else _pick(rng, "accuse", *heated)
    return [accuse + concern, _pick(rng, "admit") + regret]


def _reaction(plot: Plot, rng: random.Random, mood: str) -> list[str]:
    reaction, demand = _pick(rng, mood), _pick(rng, "demand")
    # Summaries name the feeling, and an insult by itself shows no more than anger.
    if mood == "hostile" and plot.words["feeling"] != "angry":
        reaction += " I am {feeling}."
    # A confession is a turn longer and leaves no room for an argument within ten turns.
    if plot.confessed or rng.random() < 0.6:
        return [reaction + _maybe(rng, 0.6, " " + demand)]
    jab = _maybe(rng, 0.5 * (plot.mood == "hostile"), _pick(rng, "jab") + " ")
    return [reaction, _pick(rng, f"retort {plot.mood}"), jab + demand]


def _parting(plot: Plot, rng: random.Random) -> list[str]:
    ending = "settled" if plot.settled else "refused"
    return [_pick(rng, f"close {ending}"), _pick(rng, f"part {ending}")][: rng.randrange(3)]


def _summaries(plot: Plot, rng: random.Random) -> tuple[str, str]:
    """One summary twice, with the insult and without; equal if nobody is upset."""
    narrator, introducing = _narrator(plot), _narrator(plot, introduces_victim=True)
    endings = [_say(ending, narrator) for ending in PHRASES["ending"]]
    pairs = [
        [_say(told, introducing if told.startswith("{B}") else narrator) for told in pair]
        for pair in _told(plot)
    ]
    tellings = [(insulting + end, clean + end) for insulting, clean in pairs for end in endings]
    return rng.choice([pair for pair in tellings if len(pair[0].split()) <= MAX_SUMMARY_WORDS])


def _told(plot: Plot) -> list[tuple[str, str]]:
    """The first clauses that fit the plot, each with the insult and without."""
    if plot.mood != "calm":
        return list(zip(PHRASES["insulting told"], PHRASES["clean told"], strict=True))
    way = "confessed told" if plot.confessed else "accused told"
    return [(told, told) for told in PHRASES["calm told"] + PHRASES[way]]


def _narrator(plot: Plot, introduces_victim: bool = False) -> dict[str, str]:
    """A wording with pronouns, or one with the victim's name where it was not yet mentioned."""
    he, him, his = vocabulary.PRONOUNS[plot.words["kind_b"]]
    _, her, hers = vocabulary.PRONOUNS[plot.words["kind_a"]]
    if introduces_victim:
        her, hers = plot.words["A"], f"{plot.words['A']}'s"
    return _wording(plot, {"I": he, "my": his, "me": him, "you": her, "your": hers})


def _labeled_text(rng: random.Random, label: str) -> LabeledText:
    insulting = label == "hate"
    plot = _plot(rng, "hostile" if insulting else rng.choice(("hostile", "upset", "calm")))
    summary = _summaries(plot, rng)[0 if insulting else 1]
    wording = {**_narrator(plot), "harmless": rng.choice(vocabulary.HARMLESS)}
    kinds = (
        [summary],
        re.split(r"(?<=\.) ", summary),
        [turn.split(": ", 1)[1] for turn in _dialogue(plot, rng).splitlines()],
        [_say(_pick(rng, f"remark {label}"), wording)],
    )
    (kind,) = rng.choices(kinds, weights=(2, 1, 1, 1))
    text = rng.choice([text for text in kind if contains_insult(text) == insulting])
    damages = rng.random() < 0.4
    return LabeledText(_damaged(text, rng, insulting) if damages else text, label)


def _damaged(text: str, rng: random.Random, insulting: bool) -> str:
    """Breaks the text and not its label: an insult stays in it."""
    damage = rng.choice((_cut, _stuttered, _shuffled))
    while True:
        damaged = " ".join(damage(text.split(), rng))
        if contains_insult(damaged) == insulting:
            return damaged


def _cut(words: list[str], rng: random.Random) -> list[str]:
    start, stop = sorted(rng.sample(range(len(words) + 1), 2))
    return words[start:stop]


def _stuttered(words: list[str], rng: random.Random) -> list[str]:
    at = rng.randrange(len(words))
    return [*words[:at], *words[at : at + 1] * rng.randint(2, 4), *words[at + 1 :]]


def _shuffled(words: list[str], rng: random.Random) -> list[str]:
    return rng.sample(words, len(words))
