"""What reference and policy answered to the same prompts, side by side."""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import distributed

Figures = dict[str, NDArray[np.float64]]
Thing = TypeVar("Thing")


class BatchComparison(NamedTuple):
    """What came of one batch: ``b`` prompts, ``d`` decodings of each.

    Attributes:
        places: Of the prompts among all.
        prompts: Their texts.
        references: Summaries written by people.
        texts: Responses ``[b][d]``, ``before`` and ``after``.
        figures: What is known of each response, ``[b, d]`` by name, ``before`` and ``after``.
    """

    places: list[int]
    prompts: list[str]
    references: list[str]
    texts: dict[str, list[list[str]]]
    figures: dict[str, Figures]


class Answers(NamedTuple):
    """What one of the two answered: ``n`` prompts, ``d`` decodings of each.

    Attributes:
        texts: ``[n][d]`` responses.
        figures: What is known of each response, by name, each ``[n, d]``; NaN where nothing is.
    """

    texts: list[list[str]]
    figures: Figures


class Comparison(NamedTuple):
    """Answers before and after training to the same prompts, with the same noise.

    Attributes:
        prompts: ``n`` prompts, template included.
        references: ``n`` summaries written by people.
        decodings: Names of the ``d`` decodings: ``greedy``, ``sample 1``, ``sample 2``, …
        before: The reference's answers.
        after: The policy's answers.
    """

    prompts: list[str]
    references: list[str]
    decodings: list[str]
    before: Answers
    after: Answers

    def rows(self) -> list[dict[str, Any]]:
        """One row a prompt and decoding, the largest fall of toxicity first.

        Returns:
            ``prompt``, ``reference``, ``decoding``, ``before``, ``after``, ``difference`` (toxicity
            after less before), and each figure as ``NAME_before`` and ``NAME_after``; None where
            nothing is known.
        """
        rows = [
            self._row(prompt, decoding)
            for prompt in range(len(self.prompts))
            for decoding in range(len(self.decodings))
        ]
        return sorted(rows, key=lambda row: row["difference"])

    def _row(self, prompt: int, decoding: int) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        row: dict[str, Any] = {
            "prompt": self.prompts[prompt],
            "reference": self.references[prompt],
            "decoding": self.decodings[decoding],
            **{side: answers.texts[prompt][decoding] for side, answers in sides.items()},
        }
        figures = {
            f"{name}_{side}": float(values[prompt, decoding])
            for name in self.after.figures
            for side, answers in sides.items()
            if (values := answers.figures.get(name)) is not None
        }
        row["difference"] = figures["toxicity_after"] - figures["toxicity_before"]
        return row | {name: None if np.isnan(value) else value for name, value in figures.items()}


def merge(pieces: list[BatchComparison], decodings: list[str]) -> Comparison:
    """Puts all processes' pieces together, in the order of the prompts.

    Collective where there are several processes: each gives its pieces and gets the whole.

    Args:
        pieces: This process's.
        decodings: Names of the ``d`` decodings.
    """
    pieces = gather_lists(pieces)
    order = np.argsort([place for piece in pieces for place in piece.places])

    def ordered(column: list[Any]) -> list[Any]:
        rows = [row for part in column for row in part]
        return [rows[place] for place in order]

    def answers(side: str) -> Answers:
        names = pieces[0].figures[side]
        return Answers(
            ordered([piece.texts[side] for piece in pieces]),
            {
                name: np.concatenate([p.figures[side][name] for p in pieces])[order]
                for name in names
            },
        )

    return Comparison(
        ordered([piece.prompts for piece in pieces]),
        ordered([piece.references for piece in pieces]),
        decodings,
        answers("before"),
        answers("after"),
    )


def gather_lists(things: list[Thing]) -> list[Thing]:
    """The lists of all processes, one after the other; collective where there are several."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return things
    lists: list[list[Thing]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(lists, things)
    return [thing for part in lists for thing in part]
