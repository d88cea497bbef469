"""Meaning of a sequence classifier's outputs: its labels, and what its head gives for each."""

import re
from typing import Any, Literal

from torch import Tensor

from detox_lightning.errors import InputError

Head = Literal["softmax", "sigmoid", "value"]
HEAD_MEANINGS = {
    "softmax": "a softmax over its labels",
    "sigmoid": "a sigmoid for each of its labels",
    "value": "the value itself",
}
# names of labels of texts that are none of the others
NEITHER = {
    *("no", "not", "non", "none", "neither", "nothing", "neutral", "normal", "negative"),
    *("clean", "safe", "ok", "okay", "fine", "benign", "harmless", "acceptable", "other"),
}
NEGATIONS = ("no", "non", "not", "un", "in")


def labels_of(config: Any, name: str) -> list[str]:
    """Returns the labels of a classifier, in the order of its outputs.

    Raises:
        InputError: If outputs are left out, two have the same label, or ``label2id`` contradicts
            ``id2label``.
    """
    numbers = sorted(config.id2label)
    if numbers != list(range(len(numbers))):
        raise InputError(
            f"the config.json of the classifier {name!r} numbers its outputs {numbers} in "
            "id2label, which must count 0, 1, 2, …: correct it"
        )
    labels = [str(config.id2label[number]) for number in numbers]
    indices = getattr(config, "label2id", None) or {}
    for index, label in enumerate(labels):
        if labels.count(label) > 1:
            raise InputError(
                f"the classifier {name!r} has two outputs of the label {label!r}; correct "
                "id2label in its config.json"
            )
        if indices.get(label) is not None and int(indices[label]) != index:
            raise InputError(
                f"the config.json of the classifier {name!r} contradicts itself: by id2label its "
                f"label {label!r} is output {index}, by label2id {indices[label]}. Find out which "
                "is right, and correct the other"
            )
    return labels


def guess_head(config: Any) -> Head:
    """Returns the head that pipelines of transformers assume for a model's config."""
    problem = getattr(config, "problem_type", None)
    if problem == "regression":
        return "value"
    is_single = len(config.id2label) == 1
    return "sigmoid" if is_single or problem == "multi_label_classification" else "softmax"


def open_question(config: Any, labels: list[str]) -> str | None:
    """Returns what a config leaves open about the outputs, and what is guessed.

    None if the config tells, or the labels' names do.
    """
    if getattr(config, "problem_type", None) is not None:
        return None
    if len(labels) == 1:
        return (
            f"what its only output, {labels[0]}, is. It is taken for log-odds (sigmoid): say so, "
            "or that it is a value from 0 to 1 (value)"
        )
    if len(labels) == 2 or are_exclusive(labels):
        return None
    return (
        f"whether its labels exclude one another, nor do their names: {', '.join(labels)}. They "
        "are taken to exclude one another (softmax): say so, or that each has a probability of its "
        "own (sigmoid)"
    )


def are_exclusive(labels: list[str]) -> bool:
    """Whether the names of labels tell that no two of them hold at once.

    They do if one is for texts that are none of the others, such as ``neutral`` or ``nothate``.
    """
    names = {"".join(re.findall(r"[a-z]+|\d+", label.lower())) for label in labels}
    opposites = {negation + name for name in names for negation in NEGATIONS}
    return bool(names & (opposites | NEITHER))


def log_odds(logits: Tensor, index: int, head: Head) -> Tensor:
    """Returns ``[n]`` log-odds of a label from logits ``[n, labels]``.

    They are the logits themselves (``sigmoid``), or against all other labels (``softmax``).
    """
    if head == "sigmoid":
        return logits[:, index]
    others = logits.clone()
    others[:, index] = -float("inf")
    return logits[:, index] - others.logsumexp(dim=-1)
