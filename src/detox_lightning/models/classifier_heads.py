"""What the outputs of a sequence classifier mean: its labels, and what its head gives for each."""

import re
import warnings
from typing import Any, Literal, get_args

from torch import Tensor

from detox_lightning.errors import InputError

Head = Literal["softmax", "sigmoid", "value"]
MEANS = {
    "softmax": "its labels exclude one another",
    "sigmoid": "each of its outputs has a probability of its own",
    "value": "its output is the value itself",
}
OF_PROBLEM: dict[str | None, Head] = {
    "multi_label_classification": "sigmoid",
    "regression": "value",
}
# names of labels that hold only where no other does
NEITHER = {
    *("no", "not", "non", "none", "neither", "nothing", "neutral", "normal", "negative"),
    *("clean", "safe", "ok", "okay", "fine", "benign", "harmless", "acceptable", "other"),
}
OVERSHOOT = 0.5  # by which a regressor's value may leave 0 to 1
OVERSHOT = (
    "the classifier {!r} gives values a little below 0 or above 1; they are taken as they are"
)
NEGATIONS = ("no", "non", "not", "un", "in")


def labels_of(config: Any, name: str) -> list[str]:
    """The labels of a classifier, in the order of its outputs.

    Args:
        config: The model's.
        name: The model's, for the message.

    Raises:
        InputError: If outputs are left out, two have the same label, or ``label2id`` says otherwise
            than ``id2label``.
    """
    numbers = sorted(config.id2label)
    if numbers != list(range(len(numbers))):
        raise InputError(
            f"the config.json of the classifier {name!r} numbers its outputs {numbers} in "
            "id2label; they go from 0 on, each by one: mend it"
        )
    labels = [str(config.id2label[number]) for number in numbers]
    indices = getattr(config, "label2id", None) or {}
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(
            f"the classifier {name!r} has two outputs of the label {twice!r}; mend id2label in its "
            "config.json"
        )
    for index, label in enumerate(labels):
        if indices.get(label) is not None and int(indices[label]) != index:
            raise InputError(
                f"the config.json of the classifier {name!r} contradicts itself: by id2label its "
                f"label {label!r} is output {index}, by label2id {indices[label]}. Find out which "
                "is right, and mend the other"
            )
    return labels


def guess_head(config: Any) -> Head:
    """What the head of a classifier is, by its config, as pipelines of transformers have it.

    Args:
        config: The model's.
    """
    single = len(config.id2label) == 1
    return OF_PROBLEM.get(getattr(config, "problem_type", None), "sigmoid" if single else "softmax")


def check_head(head: Head | None, labels: list[str], name: str, flag: str) -> None:
    """Refuses a head that a classifier can't have.

    Args:
        head: What it is said to be; None: it is guessed.
        labels: The classifier's.
        name: Its own, for messages.
        flag: What named the head.

    Raises:
        InputError: If there is none such, or it is to exclude labels where there is one output.
    """
    if head not in (None, *get_args(Head)):
        raise InputError(f"{flag}={head}: choose from {', '.join(get_args(Head))}, or null")
    if head == "softmax" and len(labels) == 1:
        raise InputError(
            f"{flag}=softmax: the classifier {name!r} has a single output, {labels[0]}, that "
            "excludes no other; give sigmoid or value"
        )


def doubt(config: Any, labels: list[str]) -> str | None:
    """What a config leaves open of how outputs become probabilities, and what is guessed.

    Args:
        config: The model's.
        labels: The same model's.

    Returns:
        None if the config tells, or the labels' names do.
    """
    if getattr(config, "problem_type", None) is not None:
        return None
    if len(labels) == 1:
        return (
            f"what its only output, {labels[0]}, is. It is taken for log-odds (sigmoid): say so, "
            "or that it is a value from 0 to 1 (value)"
        )
    if len(labels) == 2 or exclude(labels):
        return None
    return (
        f"whether its labels exclude one another, nor do their names: {', '.join(labels)}. They "
        "are taken to exclude one another (softmax): say so, or that each has a probability of its "
        "own (sigmoid)"
    )


def exclude(labels: list[str]) -> bool:
    """Whether the names of labels tell that no two of them hold at once.

    They do where one is for texts that are none of the others, such as ``neutral`` or ``nothate``.

    Args:
        labels: All of a classifier's.
    """
    names = {"".join(re.findall(r"[a-z]+|\d+", label.lower())) for label in labels}
    opposites = {negation + name for name in names for negation in NEGATIONS}
    return bool(names & (opposites | NEITHER))


def log_odds(logits: Tensor, wanted: int, head: Head) -> Tensor:
    """``[n]`` log-odds of one label, whose sigmoid is its probability.

    Args:
        logits: ``[n, labels]``.
        wanted: The label's index.
        head: ``sigmoid``: they are the logits; ``softmax``: the odds are against all others.
    """
    if head == "sigmoid":
        return logits[:, wanted]
    others = logits.clone()
    others[:, wanted] = -float("inf")
    return logits[:, wanted] - others.logsumexp(dim=-1)


def probability(logits: Tensor, wanted: int, head: Head, name: str, flag: str) -> Tensor:
    """``[n]`` probabilities of one label.

    Args:
        logits: ``[n, labels]``.
        wanted: The label's index.
        head: A value is taken for the probability that it is meant to be, be it a little below 0
            or above 1, as a regressor's is now and then; that is told once.
        name: The model's, for the message.
        flag: What names the head.

    Raises:
        InputError: If a value is far from any probability.
    """
    if head != "value":
        return log_odds(logits, wanted, head).sigmoid()
    values = logits[:, wanted]
    outside = values[(values < 0) | (values > 1)]
    if len(outside):
        furthest = outside[(outside - 0.5).abs().argmax()].item()
        if not -OVERSHOOT <= furthest <= 1 + OVERSHOOT:
            raise InputError(
                f"the classifier {name!r} gave the value {furthest:g} for a text, which is no "
                f"probability (0 to 1): name a classifier, or give {flag}=sigmoid if its values "
                "are log-odds"
            )
        warnings.warn(OVERSHOT.format(name), stacklevel=2)
    return values
