"""The interface of a reward."""

from typing import Any

from torch import Tensor, nn

from detox_lightning.errors import InputError


class Reward(nn.Module):
    """Scores responses; a subclass overrides :meth:`forward`.

    Attributes:
        name: The mean score is logged under ``rewards/<name>``.
        needs_references: Whether the reward can't score prompts without a reference.
        columns: Columns of the data, beside the texts, that :meth:`forward` takes by their names,
            each a list of ``b`` values.
    """

    name = "reward"
    needs_references = False
    columns: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that each row of data must have: ``reference``, if a part of the reward does."""
        parts = (part for part in self.modules() if isinstance(part, Reward))
        return ("reference",) if any(part.needs_references for part in parts) else ()

    def load(self) -> None:
        """Opens models, once; the constructor only stores their names."""

    def describe(self) -> str:
        """Returns one line for reports."""
        return f"{type(self).__name__} ({self.name})"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses.

        Args:
            prompts: ``b`` prompts, template included.
            responses: ``b`` responses, special tokens stripped.
            references: ``b`` human answers, such as summaries; empty if there is none.

        Returns:
            ``[b]`` scores, higher is better.
        """
        raise NotImplementedError

    def parts(
        self, prompts: list[str], responses: list[str], references: list[str], **columns: list[Any]
    ) -> dict[str, Tensor]:
        """Computes the terms of the score, by default the score alone; see :meth:`forward`.

        Returns:
            Raw terms, each ``[b]``, by their names in the log.
        """
        return {self.name: self(prompts, responses, references, **columns)}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Returns the ``[b]`` scores from the terms; override it together with :meth:`parts`."""
        return parts[self.name]


def check_name(name: str) -> None:
    """Refuses a name that is blank or can't be printed on one line of a table or chart."""
    if not name.strip() or not name.isprintable():
        raise InputError(
            f"model.reward: a reward is named {name!r}, and logged by that: give it a name that "
            "can be printed on a line (a ClassifierReward or FunctionReward by its option name)"
        )
