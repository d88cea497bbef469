"""Reward from a text classifier."""

from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import Head, log_odds
from detox_lightning.rewards.interface import Reward

LABEL = "model.reward.label"


class ClassifierReward(Reward):
    """Output of a sequence classifier for one label, or its only output.

    If the labels exclude one another (softmax), probability and log-odds are those of the label
    against all others. If the labels are independent (sigmoid: several labels at once, or a single
    output), the logit is the log-odds, and its sigmoid the probability. A regressor's ``logit`` is
    its value, which is also its ``probability`` if it lies between 0 and 1. A score that should be
    low, such as toxicity, belongs in a :class:`WeightedReward` with the weight -1.

    Args:
        model: The classifier: hub id, local folder or ``demo:NAME``.
        label: Name of the wanted label in the classifier's ``id2label``; null: the only output
            of a model that has one, such as a regressor.
        output: The label's raw logit, its probability, or its log-odds.
        include_prompt: Score prompt and response together instead of the response alone. If
            they are too long for the classifier, the prompt's beginning is cut.
        batch_size: Texts scored at once.
        name: Name in the log; null: the label, or ``classifier`` without one.
        head: ``softmax``: the labels exclude one another; ``sigmoid``: each output has a
            probability of its own; ``value``: a regressor's value. null: according to the
            classifier's config (``problem_type``, and the number of its outputs).
    """

    def __init__(
        self,
        model: str,
        label: str | None = "nothate",
        output: Literal["logit", "probability", "log_odds"] = "logit",
        include_prompt: bool = False,
        batch_size: PositiveInt = 64,
        name: str | None = None,
        head: Head | None = None,
    ):
        super().__init__()
        self.name = name or label or "classifier"
        self.label = label
        self.output = output
        self.include_prompt = include_prompt
        self.classifier = TextClassifier(model, batch_size, head, "model.reward.head")

    def describe(self) -> str:
        """Returns one line for reports."""
        of = "" if self.label is None else f" of {self.label!r}"
        return f"{self.output}{of} by {self.classifier.name}"

    def load(self) -> None:
        """Opens the classifier.

        Raises:
            InputError: If there is no such classifier, it has no such label, it has several
                outputs and no label is named, or log-odds are asked of a regressor.
        """
        self.classifier.load()
        self.output_index()
        if self.output != "logit":
            self.classifier.warn_guessed()
        if self.output == "log_odds" and self.classifier.head == "value":
            raise InputError(
                f"model.reward.output=log_odds: the classifier {self.classifier.name!r} gives a "
                "value (regression); give output=logit, which is the value itself, or "
                "model.reward.head=sigmoid if it is log-odds"
            )

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        logits = self.classifier(responses, prompts if self.include_prompt else None)
        index = self.output_index()
        if self.output == "logit":
            return logits[:, index]
        if self.output == "log_odds":
            return log_odds(logits, index, self.classifier.head)
        return self.classifier.probability(logits, index)

    def aim(self, weight: float) -> str | None:
        """Returns the label that this term makes likelier, at a weight; None if that is open."""
        labels, index = self.classifier.labels, self.output_index()
        if weight < 0 and len(labels) == 2 and self.classifier.head == "softmax":
            weight, index = -weight, 1 - index  # they exclude one another
        return labels[index] if weight > 0 else None

    def output_index(self) -> int:
        """Returns the index of the label's output, or of the only one; InputError if none is."""
        name, labels = self.classifier.name, self.classifier.labels
        if self.label is None and len(labels) > 1:
            raise InputError(
                f"{LABEL} null: the classifier {name!r} has several labels, {', '.join(labels)}: "
                "name one of them"
            )
        if self.label is not None and len(labels) == 1 and self.label not in labels:
            raise InputError(
                f"{LABEL} {self.label!r}: the classifier {name!r} has a single output, "
                f"{labels[0]}; ask for it with label: null"
            )
        return 0 if self.label is None else self.classifier.label_index(self.label, LABEL)
