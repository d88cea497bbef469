"""The interface of a reward."""

from torch import Tensor, nn


class Reward(nn.Module):
    """What a response is worth; a subclass overrides :meth:`forward`.

    Attributes:
        name: Under ``rewards/<name>`` the mean is logged.
    """

    name = "reward"

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
