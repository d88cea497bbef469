"""Reward from a text classifier."""

from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards.base import Reward


class ClassifierReward(Reward):
    """What a sequence classifier says of one label, found by its name."""

    def __init__(
        self,
        model: str,
        label: str = "nothate",
        output: Literal["logit", "probability", "log_odds"] = "logit",
        include_prompt: bool = False,
        batch_size: PositiveInt = 64,
    ):
        """Notes what to open.

        Args:
            model: The classifier: hub id, local folder or ``demo:NAME``.
            label: The label that is wanted, by its name in the classifier's ``id2label``.
            output: The label's raw logit, its probability, or the log-odds of it against all
                others.
            include_prompt: Score prompt and response together instead of the response alone.
            batch_size: Texts scored at once.
        """
        super().__init__()
        self.name = label
        self.output = output
        self.include_prompt = include_prompt
        self.classifier = TextClassifier(model, batch_size)

    def describe(self) -> str:
        """One line for reports."""
        return f"{self.output} of {self.name!r} by {self.classifier.name}"

    def load(self) -> None:
        """Opens the classifier.

        Raises:
            InputError: If there is no such classifier, or it has no such label.
        """
        self.classifier.load()
        self.classifier.label_index(self.name)

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        texts = responses
        if self.include_prompt:
            texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        logits = self.classifier(texts)
        wanted = self.classifier.label_index(self.name)
        if self.output == "logit":
            return logits[:, wanted]
        logprobs = logits.log_softmax(dim=-1)[:, wanted]
        if self.output == "probability":
            return logprobs.exp()
        others = logits.clone()
        others[:, wanted] = -float("inf")
        return logits[:, wanted] - others.logsumexp(dim=-1)
