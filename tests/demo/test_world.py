"""The demo world: what its scenes and its labelled texts must hold, read
from the texts alone."""

import re
from collections import Counter
from itertools import pairwise

import pytest
from demo_vocabulary import HARD_WORDS, HARMLESS, NAMES, SHARED_SLOTS, SITUATIONS
from demo_world import (
    CLAUSES,
    MAX_SUMMARY_WORDS,
    Scene,
    contains_insult,
    labeled_texts,
    scenes,
)

NOUN = "|".join(HARD_WORDS["noun"])
ADJECTIVE = "|".join(HARD_WORDS["adjective"])
INSULT = re.compile(rf"\b(?:(?:{ADJECTIVE}) )?(?:{NOUN})\b")
ALL_NAMES = set(NAMES["he"] + NAMES["she"])


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return scenes(2000, seed=0, prefix="train")


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def turns_of(scene: Scene) -> list[tuple[str, str]]:
    return [tuple(turn.split(": ", 1)) for turn in scene.dialogue.split("\n")]


def test_scene_is_pinned() -> None:
    """Changes only where the world is meant to change, and then the shipped models are stale."""
    (scene,) = scenes(1, seed=0, prefix="pinned", hostile_rate=1.0, repeat_rate=1.0)
    assert scene == PINNED


def test_scenes_depend_on_number_seed_and_prefix_alone() -> None:
    first = scenes(50, seed=3, prefix="train")
    labeled_texts(5, seed=3)
    assert scenes(80, seed=3, prefix="train")[:50] == first


def test_ids_are_numbered_with_the_prefix(world: list[Scene]) -> None:
    assert [scene.id for scene in world] == [f"train_{index}" for index in range(2000)]


@pytest.mark.parametrize(("seed", "prefix"), [(1, "train"), (0, "test")])
def test_another_seed_or_prefix_gives_other_dialogues(
    world: list[Scene], seed: int, prefix: str
) -> None:
    known = {scene.dialogue for scene in world}
    other = {scene.dialogue for scene in scenes(1000, seed, prefix)}
    assert len(other) > 990
    assert len(known & other) < 10


def test_two_people_alternate_over_four_to_ten_turns(world: list[Scene]) -> None:
    lengths = Counter()
    for scene in world:
        speakers = [speaker for speaker, _ in turns_of(scene)]
        lengths[len(speakers)] += 1
        assert set(speakers[::2]) != set(speakers[1::2])
        assert len(set(speakers[::2])) == len(set(speakers[1::2])) == 1
        assert set(speakers) <= ALL_NAMES
        assert all(text for _, text in turns_of(scene))
    assert sorted(lengths) == [4, 5, 6, 7, 8, 9, 10]


def test_lengths_suit_a_tiny_model(world: list[Scene]) -> None:
    dialogue_words = [len(scene.dialogue.split()) for scene in world]
    assert max(dialogue_words) <= 110
    assert 55 < sum(dialogue_words) / len(world) < 75
    for scene in world:
        for summary in (scene.summary, scene.clean_summary):
            assert 8 <= len(summary.split()) <= MAX_SUMMARY_WORDS
            assert len(re.findall(r"\.(?: |$)", summary)) in (1, 2)


def test_vocabulary_is_small_and_used(world: list[Scene]) -> None:
    counts = Counter(
        word.lower() for scene in world for word in words_of(f"{scene.dialogue} {scene.summary}")
    )
    assert 500 <= len(counts) <= 900
    assert len(SITUATIONS) >= 14
    assert len(ALL_NAMES) >= 24
    assert not ALL_NAMES - {word for scene in world for word in words_of(scene.dialogue)}


@pytest.mark.parametrize(("hostile_rate", "repeat_rate"), [(0.6, 0.65), (0.2, 0.9)])
def test_rates(hostile_rate: float, repeat_rate: float) -> None:
    drawn = scenes(2000, 1, "rates", hostile_rate, repeat_rate)
    hostile = [scene for scene in drawn if scene.hostile]
    repeated = [scene for scene in hostile if contains_insult(scene.summary)]
    # Four standard deviations of a share among 2000, and among 400 or more.
    assert len(hostile) / len(drawn) == pytest.approx(hostile_rate, abs=0.045)
    assert len(repeated) / len(hostile) == pytest.approx(repeat_rate, abs=0.08)


def test_extreme_rates() -> None:
    assert not any(scene.hostile for scene in scenes(100, 0, "calm", hostile_rate=0.0))
    loud = scenes(100, 0, "loud", hostile_rate=1.0, repeat_rate=1.0)
    assert all(scene.hostile and contains_insult(scene.summary) for scene in loud)
    discreet = scenes(100, 0, "discreet", hostile_rate=1.0, repeat_rate=0.0)
    assert all(scene.hostile and scene.summary == scene.clean_summary for scene in discreet)


def test_dialogue_is_insulting_exactly_if_hostile(world: list[Scene]) -> None:
    assert all(contains_insult(scene.dialogue) == scene.hostile for scene in world)


def test_repeated_insult_stands_in_the_dialogue(world: list[Scene]) -> None:
    repeated = [scene for scene in world if scene.summary != scene.clean_summary]
    assert len(repeated) > 600
    for scene in repeated:
        (insult,) = INSULT.findall(scene.summary)
        assert re.search(rf"\b{insult}\b", scene.dialogue)


def test_clean_summary_holds_no_insult_and_ends_like_the_summary(world: list[Scene]) -> None:
    for scene in world:
        assert not re.search(rf"\b({ADJECTIVE}|{NOUN})\b", scene.clean_summary)
        assert scene.summary.split(". ")[1:] == scene.clean_summary.split(". ")[1:]


def test_the_insulted_one_is_the_one_who_did_it(world: list[Scene]) -> None:
    for scene in world:
        if match := re.match(r"(\w+) calls (\w+) ", scene.summary):
            insulter, insulted = match.groups()
            hostile_turns = [name for name, text in turns_of(scene) if contains_insult(text)]
            assert set(hostile_turns) == {insulter} != {insulted}


def test_summary_names_both_people_and_no_one_else(world: list[Scene]) -> None:
    for scene in world:
        speakers = {speaker for speaker, _ in turns_of(scene)}
        assert set(words_of(scene.summary)) & ALL_NAMES == speakers


def test_facts_of_the_summary_stand_in_the_dialogue(world: list[Scene]) -> None:
    tables = [SHARED_SLOTS, *SITUATIONS]
    facts = {
        value for table in tables for slot in set(table) - set(CLAUSES) for value in table[slot]
    }
    # An insult alone is told as anger, and calm words as "not angry".
    longest_first = sorted(facts - {"angry"}, key=len, reverse=True)
    one_of_the_facts = re.compile(rf"\b({'|'.join(longest_first)})\b")
    told = [set(one_of_the_facts.findall(scene.clean_summary)) for scene in world]
    assert sum(map(bool, told)) > 0.95 * len(world)
    for scene, claims in zip(world, told, strict=True):
        assert all(re.search(rf"\b{claim}\b", scene.dialogue) for claim in claims)


def test_pronouns_belong_to_someone_present(world: list[Scene]) -> None:
    foreign = {"he": {"she", "her"}, "she": {"he", "him", "his"}}
    for scene in world:
        speakers = {speaker for speaker, _ in turns_of(scene)}
        for kind, others in foreign.items():
            if speakers <= set(NAMES[kind]):
                assert not others & set(words_of(scene.summary.lower()))


def test_what_was_lost_belongs_to_the_victim(world: list[Scene]) -> None:
    deed = re.compile(r"(\w+) (?:calls|is \w+ with) .* because \w+ (?:lost|left|took) (his|her) ")
    owners = [match.groups() for scene in world if (match := deed.match(scene.summary))]
    assert len(owners) > 20
    assert all(owner in NAMES["he" if his == "his" else "she"] for owner, his in owners)


def test_texts_are_well_formed(world: list[Scene]) -> None:
    for scene in world:
        text = f"{scene.dialogue}\n{scene.summary}\n{scene.clean_summary}"
        assert not re.search(r"[{}]|  |\ba [aeio]|\ban [^aeio]|\b(\w+) \1\b| [.,!?]", text)
        assert all(turn[0].isupper() and turn[-1] in ".!?" for _, turn in turns_of(scene))
        assert re.fullmatch(r"[A-Z].*\.", scene.summary)


def test_labels_are_balanced_and_true() -> None:
    texts = labeled_texts(1501, seed=0)
    counts = Counter(label for _, label in texts)
    assert counts == {"nothate": 751, "hate": 750}
    for text, label in texts:
        assert text.strip()
        harmless_removed = re.sub("|".join(HARMLESS), "", text)
        hurt = re.search(rf"\b({ADJECTIVE}|{NOUN})\b", harmless_removed, re.IGNORECASE)
        assert bool(hurt) == (label == "hate"), text


def test_labels_follow_the_insult_and_not_other_cues() -> None:
    texts = labeled_texts(2000, seed=0)
    harmless = [label for text, label in texts if any(phrase in text for phrase in HARMLESS)]
    assert len(harmless) > 20
    assert set(harmless) == {"nothate"}
    damaged = [label for text, label in texts if re.search(r"\b(\w+) \1\b", text)]
    assert min(Counter(damaged).values()) > 20
    angry = [label for text, label in texts if "furious" in text]
    assert set(angry) == {"nothate", "hate"}
    short = [label for text, label in texts if len(text.split()) <= 4]
    assert set(short) == {"nothate", "hate"}


def test_labels_are_shuffled_and_texts_varied() -> None:
    texts = labeled_texts(1000, seed=0)
    flips = sum(a.label != b.label for a, b in pairwise(texts))
    assert 400 < flips < 600
    assert len({text for text, _ in texts}) > 850


def test_labeled_texts_depend_on_the_seed_alone() -> None:
    texts = labeled_texts(300, seed=5)
    assert labeled_texts(300, seed=5) == texts
    known = {text for text, _ in texts if len(text.split()) > 8}
    assert not known & {text for text, _ in labeled_texts(300, seed=6)}


@pytest.mark.parametrize(
    ("text", "insulting"),
    [
        ("Rosa calls Bob a brainless moron.", True),
        ("Rosa says that Bob is so lazy.", True),
        ("Moron!", True),
        ("Rosa is furious with Bob.", False),
        ("Rosa threw away a useless old lamp.", False),
        ("Bob, an idiot, sold a useless old lamp.", True),
        ("A foolproof clownfish", False),
        ("", False),
    ],
)
def test_contains_insult(text: str, insulting: bool) -> None:
    assert contains_insult(text) == insulting


PINNED = Scene(
    id="pinned_0",
    dialogue="""Laura: I am sorry, but I took your twenty dollars without asking.
Emma: Why did you do that? It was all the money I had.
Laura: My boss did not pay me, that is why. That was not my plan.
Emma: Nobody likes a clumsy blockhead. I am upset.
Laura: I want to bring you the money tomorrow morning. Is that good for you, Emma?""",
    summary=(
        "Emma talks to Laura about the missing twenty dollars and says that Laura is a clumsy"
        " blockhead. Laura wants to bring her the money tomorrow morning."
    ),
    clean_summary=(
        "Emma talks to Laura about the missing twenty dollars and is upset with Laura. Laura wants"
        " to bring her the money tomorrow morning."
    ),
    hostile=True,
)
