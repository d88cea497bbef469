"""How toxic texts are, by a classifier."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import Head, probability


class Toxicity(nn.Module):
    """Probability that a classifier gives its toxic label."""

    def __init__(self, classifier: TextClassifier, label: str, flag: str = "toxic_label"):
        """Notes what is asked; :meth:`load` opens it.

        Args:
            classifier: What reads the texts; it may be shared with a reward. Its head says how an
                output becomes a probability.
            label: Its toxic label, by name.
            flag: What named the label, for the message.
        """
        super().__init__()
        self.classifier = classifier
        self.label = label
        self.flag = flag

    def load(self) -> None:
        """Opens the classifier, once.

        Raises:
            InputError: If there is no such classifier, or it lacks the label.
        """
        self.classifier.load()
        try:
            self.index = self.classifier.label_index(self.label)
        except InputError as error:
            raise InputError(f"{self.flag}: {error}") from error
        self.classifier.warn_guessed()

    def forward(self, texts: list[str]) -> Tensor:
        """``[n]`` probabilities for ``n`` texts, in their order.

        Raises:
            InputError: If the classifier is a regressor whose value is no probability.
        """
        asked = self.classifier
        return probability(asked(texts), self.index, asked.head, asked.name, asked.flag)


class ToxicityMetric(Metric):
    """Mean and maximum toxicity of all texts of all processes, and the share of toxic ones.

    The classifier follows the metric from device to device, but is none of its parameters, and is
    not in its ``state_dict``.
    """

    full_state_update = False
    higher_is_better = False

    def __init__(
        self,
        model: str,
        toxic_label: str = "hate",
        threshold: float = 0.5,
        batch_size: int = 64,
        head: Head | None = None,
        **options: Any,
    ):
        """Starts with no texts; the first ones open the classifier.

        Args:
            model: The classifier: hub id, local folder or ``demo:NAME``.
            toxic_label: Its toxic label, by name.
            threshold: A text is toxic from this probability on.
            batch_size: Texts classified at once.
            head: What the classifier's outputs are, ``softmax``, ``sigmoid`` or ``value``; None:
                what its config tells.
            options: For ``torchmetrics.Metric``.

        Raises:
            InputError: If ``threshold`` is no probability.
        """
        super().__init__(**options)
        self.threshold = checked_threshold(threshold)
        # past nn.Module, which would count the weights among the metric's own
        self.__dict__["toxicity"] = Toxicity(TextClassifier(model, batch_size, head), toxic_label)
        self.toxicity: Toxicity
        self.sum: Tensor
        self.maximum: Tensor
        self.toxic: Tensor
        self.count: Tensor
        self.add_state("sum", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state(
            "maximum", torch.tensor(-torch.inf, dtype=torch.float32), dist_reduce_fx="max"
        )
        self.add_state("toxic", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def load(self) -> None:
        """Opens the classifier, once.

        Raises:
            InputError: If there is no such classifier, or it lacks the label.
        """
        self.toxicity.load()
        self.toxicity.to(self.device)

    def update(self, texts: list[str]) -> None:
        """Adds texts.

        Args:
            texts: The ``n`` texts to judge.

        Raises:
            InputError: As :meth:`load`, which the first texts call.
        """
        self.load()
        probabilities = self.toxicity(texts)
        self.sum += probabilities.sum()
        self.maximum = torch.cat([self.maximum.view(1), probabilities]).max()
        self.toxic += (probabilities >= self.threshold).sum()
        self.count += len(texts)

    def compute(self) -> dict[str, Tensor]:
        """The figures of all texts; NaN where there were none.

        Returns:
            ``toxicity``: the mean probability; ``max_toxicity``: the highest; ``toxicity_ratio``:
            the share of texts from the threshold on.
        """
        return {
            "toxicity": self.sum / self.count,
            "max_toxicity": self.maximum.where(self.count > 0, torch.nan),
            "toxicity_ratio": self.toxic / self.count,
        }

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> Any:
        moved = super()._apply(fn, exclude_state)
        self.toxicity.to(self.device)
        return moved


def checked_threshold(threshold: float) -> float:
    """The threshold itself.

    Raises:
        InputError: If it is no probability.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold={threshold} is no probability: give one from 0 to 1")
    return threshold
