"""Reward from a text classifier."""

from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import Head, log_odds, probability
from detox_lightning.rewards.interface import Reward


class ClassifierReward(Reward):
    """What a sequence classifier says of one label, found by its name, or its only output.

    Where labels exclude one another (softmax), probability and log-odds are the label's against all
    others; where each stands for itself (sigmoid: several labels at once, a single output), the
    logit is the log-odds, and its sigmoid the probability. A regressor's ``logit`` is its value;
    where that is no probability, from 0 to 1, it has none. Where more of it is worse, as with a
    toxicity score, put it into a :class:`WeightedReward` with the weight -1.
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
        """Notes what to open.

        Args:
            model: The classifier: hub id, local folder or ``demo:NAME``.
            label: The label that is wanted, by its name in the classifier's ``id2label``; null: the
                only output of a model that has one, such as a regressor.
            output: The label's raw logit, its probability, or its log-odds.
            include_prompt: Score prompt and response together instead of the response alone. Of
                what is too long for the classifier, the prompt's beginning is cut.
            batch_size: Texts scored at once.
            name: What it is logged by; null: the label, or ``classifier`` without one.
            head: ``softmax``: the labels exclude one another; ``sigmoid``: each output has a
                probability of its own; ``value``: a regressor's. null: what the classifier's
                config tells (``problem_type``, and the number of its outputs).
        """
        super().__init__()
        self.name = name or label or "classifier"
        self.label = label
        self.output = output
        self.include_prompt = include_prompt
        self.classifier = TextClassifier(model, batch_size, head, "model.reward.head")

    def describe(self) -> str:
        """One line for reports."""
        of = "" if self.label is None else f" of {self.label!r}"
        return f"{self.output}{of} by {self.classifier.name}"

    def load(self) -> None:
        """Opens the classifier.

        Raises:
            InputError: If there is no such classifier, it has no such label, it has several
                outputs and no label is named, or log-odds are asked of a regressor.
        """
        self.classifier.load()
        output_index(self.classifier, self.label)
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
        asked = self.classifier
        logits = asked(responses, prompts) if self.include_prompt else asked(responses)
        wanted = output_index(asked, self.label)
        if self.output == "logit":
            return logits[:, wanted]
        if self.output == "log_odds":
            return log_odds(logits, wanted, asked.head)
        return probability(logits, wanted, asked.head, asked.name, asked.flag)


def output_index(classifier: TextClassifier, label: str | None) -> int:
    """The output that belongs to a label, or the only one.

    Args:
        classifier: A loaded one.
        label: The label's name; None where there is one output.

    Raises:
        InputError: If there is no such label, or None and several outputs.
    """
    labels = classifier.labels
    if label is None and len(labels) > 1:
        raise InputError(
            f"label null: the classifier {classifier.name!r} has several labels, "
            f"{', '.join(labels)}: name one of them"
        )
    if label is not None and len(labels) == 1 and label not in labels:
        raise InputError(
            f"label {label!r}: the classifier {classifier.name!r} has a single output, "
            f"{labels[0]}; ask for it with label: null"
        )
    return 0 if label is None else classifier.label_index(label)
