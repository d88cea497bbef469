"""Reward from a text classifier."""

from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards.base import Reward


class ClassifierReward(Reward):
    """What a sequence classifier says of one label, found by its name, or its only output.

    Where labels exclude one another (softmax), probability and log-odds are the label's against all
    others; where each stands for itself (several labels at once, regression, a single output), the
    logit is the log-odds, and its sigmoid the probability. A regressor's value is neither, so ask
    it for its ``logit``, which is the raw value. Where more of it is worse, as with a toxicity
    score, put it into a :class:`WeightedReward` with the weight -1.
    """

    def __init__(
        self,
        model: str,
        label: str | None = "nothate",
        output: Literal["logit", "probability", "log_odds"] = "logit",
        include_prompt: bool = False,
        batch_size: PositiveInt = 64,
        name: str | None = None,
    ):
        """Notes what to open.

        Args:
            model: The classifier: hub id, local folder or ``demo:NAME``.
            label: The label that is wanted, by its name in the classifier's ``id2label``; null: the
                only output of a model that has one, such as a regressor.
            output: The label's raw logit, its probability, or its log-odds.
            include_prompt: Score prompt and response together instead of the response alone.
            batch_size: Texts scored at once.
            name: What it is logged by; null: the label, or ``classifier`` without one.
        """
        super().__init__()
        self.name = name or label or "classifier"
        self.label = label
        self.output = output
        self.include_prompt = include_prompt
        self.classifier = TextClassifier(model, batch_size)

    def describe(self) -> str:
        """One line for reports."""
        of = "" if self.label is None else f" of {self.label!r}"
        return f"{self.output}{of} by {self.classifier.name}"

    def load(self) -> None:
        """Opens the classifier.

        Raises:
            InputError: If there is no such classifier, it has no such label, or it has several
                outputs and no label is named.
        """
        self.classifier.load()
        output_index(self.classifier, self.label)

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        texts = responses
        if self.include_prompt:
            texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        logits = self.classifier(texts)
        wanted = output_index(self.classifier, self.label)
        if self.output == "logit":
            return logits[:, wanted]
        odds = log_odds(logits, wanted, independent_outputs(self.classifier))
        return odds.sigmoid() if self.output == "probability" else odds


def output_index(classifier: TextClassifier, label: str | None) -> int:
    """The output that belongs to a label, or the only one.

    Args:
        classifier: A loaded one.
        label: The label's name; None where there is one output.

    Raises:
        InputError: If there is no such label, or None and several outputs.
    """
    labels = list(classifier.model.config.id2label.values())
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


def independent_outputs(classifier: TextClassifier) -> bool:
    """Whether each output stands for itself, rather than for one of several exclusive labels.

    Args:
        classifier: A loaded one.
    """
    config = classifier.model.config
    exclusive = getattr(config, "problem_type", None) in (None, "single_label_classification")
    return len(config.id2label) == 1 or not exclusive


def log_odds(logits: Tensor, wanted: int, independent: bool) -> Tensor:
    """``[n]`` log-odds of one label, whose sigmoid is its probability.

    Args:
        logits: ``[n, labels]``.
        wanted: The label's index.
        independent: Whether each output stands for itself; else the odds are against all others.
    """
    if independent:
        return logits[:, wanted]
    others = logits.clone()
    others[:, wanted] = -float("inf")
    return logits[:, wanted] - others.logsumexp(dim=-1)
