"""Generates dialogues, some of them hostile, and their summaries, from a seed.

Each dialogue is about a harm that a culprit has done to a victim, such as a lost key. A `Plot`
holds everything that was drawn. The two people tell it in the dialogue, and a narrator tells it in
the summaries, so a summary says nothing that its dialogue does not.
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
        summary: Target of the supervised stage. In a hostile scene it repeats the insult at the
            repeat rate; otherwise it equals `clean_summary`.
        clean_summary: The same summary without the insult.
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
    """The events of a scene, before they are put into words.

    Attributes:
        mood: Reaction of the victim: `hostile`, `upset` or `calm`.
        confessed: Whether the culprit speaks first and confesses, or the victim accuses.
        settled: Whether the culprit makes amends, or refuses.
        words: Names, insults and slots, which don't depend on the speaker.
        clauses: Deed, reason and remedy, as templates whose pronouns depend on the speaker.
    """

    mood: str
    confessed: bool
    settled: bool
    words: Mapping[str, str]
    clauses: Mapping[str, str]


def scenes(
    count: int, seed: int, prefix: str, hostile_rate: float = 0.6, repeat_rate: float = 0.65
) -> list[Scene]:
    """Generates scenes; each depends only on its number, the seed, the prefix and the rates.

    Args:
        count: Number of scenes; a larger number begins with the same scenes.
        seed: Seed of the generator.
        prefix: Prefix of every id, and part of the seed, so that splits differ.
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
    """Generates texts for the hate classifier, half of them insulting, in a shuffled order.

    The texts are summaries, their sentences, single turns and remarks. Two in five are damaged
    (cut, stuttered or shuffled), so that the insult decides the label, and fluency does not.

    Args:
        count: Number of texts.
        seed: Seed of the generator.

    Returns:
        The texts with their labels: `hate` if and only if the text contains an insult.
    """
    labels = islice(cycle(("nothate", "hate")), count)
    texts = [_labeled_text(_stream(seed, label, i), label) for i, label in enumerate(labels)]
    _stream(seed, "order", count).shuffle(texts)
    return texts


def contains_insult(text: str) -> bool:
    """Returns whether the text contains a hard word outside of the harmless phrases."""
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
    """Draws victim and culprit; two people of one gender are distinguished by name."""
    kind_a, kind_b = rng.choice(("he", "she")), rng.choice(("he", "she"))
    victim = rng.choice(vocabulary.NAMES[kind_a])
    culprit = rng.choice([name for name in vocabulary.NAMES[kind_b] if name != victim])
    he, him, _ = vocabulary.PRONOUNS[kind_b] if kind_a != kind_b else (culprit, culprit, "")
    return {"A": victim, "B": culprit, "kind_a": kind_a, "kind_b": kind_b, "he": he, "him": him}


def _insult(rng: random.Random) -> dict[str, str]:
    adjective, noun = rng.choice(HARD_WORDS["adjective"]), rng.choice(HARD_WORDS["noun"])
    bare = noun if rng.random() < 0.15 else f"{adjective} {noun}"
    # The letter u is missing because of "a useless clown".
    insult = f"{'an' if bare[0] in 'aeio' else 'a'} {bare}"
    return {"adjective": adjective, "noun": noun, "bare": bare, "insult": insult}


def _wording(plot: Plot, voice: Mapping[str, str]) -> dict[str, str]:
    """Returns the values of a template's names, for one speaker."""
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
    """Returns the turns as templates; the two speakers alternate."""
    # If the first accusation has an insult, the reaction is plain anger.
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
    # Summaries name the feeling, and an insult alone shows only anger.
    if mood == "hostile" and plot.words["feeling"] != "angry":
        reaction += " I am {feeling}."
    # A confession takes one more turn, so an argument doesn't fit into ten turns.
    if plot.confessed or rng.random() < 0.6:
        return [reaction + _maybe(rng, 0.6, " " + demand)]
    jab = _maybe(rng, 0.5 * (plot.mood == "hostile"), _pick(rng, "jab") + " ")
    return [reaction, _pick(rng, f"retort {plot.mood}"), jab + demand]


def _parting(plot: Plot, rng: random.Random) -> list[str]:
    ending = "settled" if plot.settled else "refused"
    return [_pick(rng, f"close {ending}"), _pick(rng, f"part {ending}")][: rng.randrange(3)]


def _summaries(plot: Plot, rng: random.Random) -> tuple[str, str]:
    """Returns a summary with the insult and without; both are equal if nobody is upset."""
    narrator, introducing = _narrator(plot), _narrator(plot, introduces_victim=True)
    endings = [_say(ending, narrator) for ending in PHRASES["ending"]]
    pairs = [
        [_say(told, introducing if told.startswith("{B}") else narrator) for told in pair]
        for pair in _told(plot)
    ]
    tellings = [(insulting + end, clean + end) for insulting, clean in pairs for end in endings]
    return rng.choice([pair for pair in tellings if len(pair[0].split()) <= MAX_SUMMARY_WORDS])


def _told(plot: Plot) -> list[tuple[str, str]]:
    """Returns the first clauses that fit the plot, each with the insult and without."""
    if plot.mood != "calm":
        return list(zip(PHRASES["insulting told"], PHRASES["clean told"], strict=True))
    way = "confessed told" if plot.confessed else "accused told"
    return [(told, told) for told in PHRASES["calm told"] + PHRASES[way]]


def _narrator(plot: Plot, introduces_victim: bool = False) -> dict[str, str]:
    """Returns a wording with pronouns, or with the victim's name before its first mention."""
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
    """Damages the text but not its label: an insult stays in it."""
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
