"""Reward for a meaning like that of the prompt or the reference."""

from typing import Literal

from jsonargparse.typing import PositiveInt
from torch import Tensor

from detox_lightning.models.sentence_encoder import SentenceEncoder
from detox_lightning.rewards.interface import Reward


class SimilarityReward(Reward):
    """Cosine, from -1 to 1, between the vectors of a response and of its prompt or reference.

    The vectors are those of a sentence encoder: the mean of a text's last hidden states. Meant as a
    part of a :class:`WeightedReward`, or as the measure of ``model.constraint``.

    Args:
        model: The encoder: hub id or local folder.
        to: What the response should be like: ``prompt``, template included, or ``reference``.
        batch_size: Texts read at once.
    """

    name = "similarity"

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        to: Literal["prompt", "reference"] = "prompt",
        batch_size: PositiveInt = 64,
    ):
        super().__init__()
        self.to_what = to
        self.needs_references = to == "reference"
        self.encoder = SentenceEncoder(model, batch_size)

    def describe(self) -> str:
        """Returns one line for reports."""
        return f"similarity to the {self.to_what} by {self.encoder.name}"

    def load(self) -> None:
        """Opens the encoder; InputError if there is none of that name."""
        self.encoder.load()

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses; see :meth:`Reward.forward`."""
        others = prompts if self.to_what == "prompt" else references
        ours, theirs = self.encoder([*responses, *others]).chunk(2)
        return (ours * theirs).sum(dim=1)
