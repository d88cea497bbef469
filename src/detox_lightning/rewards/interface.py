"""The interface of a reward."""

from typing import Any

from torch import Tensor, nn

from detox_lightning.errors import InputError

PREFIXES = "prefixes"  # of responses; it names no column of the data


class Reward(nn.Module):
    """Scores responses; a subclass overrides :meth:`forward`.

    Attributes:
        name: The mean score is logged under ``rewards/<name>``.
        needs_references: Whether the reward can't score prompts without a reference.
        columns: Columns of the data, beside the texts, that :meth:`forward` takes by their names,
            each a list of ``b`` values. ``prefixes`` is no column: it holds, for each response, the
            texts of its first 1, 2, … tokens. A reward that takes them may score tokens.
        telescopes: Whether a response's token scores add up to the score that :meth:`forward`
            gives without ``prefixes``. Evaluation, which wants the sum alone, makes none then.
    """

    name = "reward"
    needs_references = False
    columns: tuple[str, ...] = ()
    telescopes = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that each row of data must have: ``reference``, if a part of the reward does."""
        parts = (part for part in self.modules() if isinstance(part, Reward))
        return ("reference",) if any(part.needs_references for part in parts) else ()

    @property
    def data_columns(self) -> tuple[str, ...]:
        """Those of ``columns`` that the data must have: all but ``prefixes``."""
        return tuple(name for name in self.columns if name != PREFIXES)

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
            ``[b]`` scores, higher is better. A reward that takes ``prefixes`` may return ``[b, t]``
            instead, a score for each token; the score of a response is then their sum.
        """
        raise NotImplementedError

    def parts(
        self, prompts: list[str], responses: list[str], references: list[str], **columns: list[Any]
    ) -> dict[str, Tensor]:
        """Computes the terms of the score, by default the score alone; see :meth:`forward`.

        Returns:
            Raw terms, each ``[b]`` or, of tokens, ``[b, t]``, by their names in the log.
        """
        return {self.name: self(prompts, responses, references, **columns)}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Returns the ``[b]`` scores from the terms; override it together with :meth:`parts`.

        If some terms have token scores, it is called once more, with all terms as ``[b, t]``.
        """
        return parts[self.name]


def check_name(name: str) -> None:
    """Refuses a name that is blank or can't be printed on one line of a table or chart."""
    if not name.strip() or not name.isprintable():
        raise InputError(
            f"model.reward: a reward is named {name!r}, and logged by that: give it a name that "
            "can be printed on a line (a ClassifierReward or FunctionReward by its option name)"
        )
