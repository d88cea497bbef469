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
