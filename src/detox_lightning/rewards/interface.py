"""The interface of a reward."""

from torch import Tensor, nn

from detox_lightning.errors import InputError


def check_name(name: str) -> None:
    """Refuses a name that tables and charts can't show.

    Args:
        name: Of a reward.

    Raises:
        InputError: If it is blank, or has line breaks or other characters that can't be printed.
    """
    if not name.strip() or not name.isprintable():
        raise InputError(
            f"model.reward: a reward is named {name!r}, and logged by that: give it a name that "
            "can be printed on a line (a ClassifierReward by its option name)"
        )


class Reward(nn.Module):
    """What a response is worth; a subclass overrides :meth:`forward`.

    Attributes:
        name: Under ``rewards/<name>`` the mean is logged.
        needs_references: Whether prompts without a reference are of no use to it.
    """

    name = "reward"
    needs_references = False

    @property
    def needs(self) -> tuple[str, ...]:
        """What rows of data may not lack: ``reference``, if a part of the reward needs it."""
        parts = (part for part in self.modules() if isinstance(part, Reward))
        return ("reference",) if any(part.needs_references for part in parts) else ()

    def load(self) -> None:
        """Opens what is costly to open, once; the constructor only takes names."""

    def describe(self) -> str:
        """One line for reports."""
        return f"{type(self).__name__} ({self.name})"

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        """Scores responses.

        Args:
            prompts: ``b`` prompts, template included.
            responses: ``b`` responses, special tokens stripped.
            references: ``b`` summaries written by people.

        Returns:
            ``[b]`` scores, higher is better.
        """
        raise NotImplementedError

    def parts(
        self, prompts: list[str], responses: list[str], references: list[str]
    ) -> dict[str, Tensor]:
        """What the score is made of: the score itself, if there is nothing to take apart.

        Args:
            prompts: As for :meth:`forward`; the others, too.
            responses: Likewise.
            references: Likewise.

        Returns:
            Raw figures, each ``[b]``, under the names they are logged by.
        """
        return {self.name: self(prompts, responses, references)}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """``[b]`` the score that the parts amount to; who overrides :meth:`parts` says how."""
        return parts[self.name]
