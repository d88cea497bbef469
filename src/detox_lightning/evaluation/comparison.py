"""Responses of the reference and the policy to the same prompts, side by side."""

from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import distributed

Figures = dict[str, NDArray[np.float64]]
Item = TypeVar("Item")


class Answers(NamedTuple):
    """Responses of one model to ``n`` prompts, ``d`` decodings of each.

    Attributes:
        texts: ``[n][d]`` responses.
        figures: Measurements of each response, ``[n, d]`` by name; NaN where there is none.
    """

    texts: list[list[str]]
    figures: Figures


class Comparison(NamedTuple):
    """Responses before and after training to the same prompts, sampled with the same noise.

    Attributes:
        prompts: ``n`` prompts, template included.
        references: ``n`` summaries written by people.
        decodings: Names of the ``d`` decodings: ``greedy``, ``sample 1``, ``sample 2``, …
        before: Responses of the reference.
        after: Responses of the policy.
        baselines: What stands beside them, by name, one text for each prompt; see
            :class:`Rewriting`.
    """

    prompts: list[str]
    references: list[str]
    decodings: list[str]
    before: Answers
    after: Answers
    baselines: dict[str, Answers] = {}  # noqa: RUF012  (nothing changes it)

    @property
    def aim(self) -> str:
        """The figure that matters most: ``toxicity``, or ``score`` where that isn't measured."""
        return "toxicity" if "toxicity" in self.after.figures else "score"

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per prompt and decoding, the largest gain first.

        Each has ``prompt``, ``reference``, ``decoding``, ``before``, ``after``, ``difference``
        (:attr:`aim` after minus before), and each figure as ``NAME_before`` and ``NAME_after``,
        None where there is no measurement.
        """
        sides, rows = {"before": self.before, "after": self.after}, []
        for prompt, decoding in np.ndindex(len(self.prompts), len(self.decodings)):
            figures = {
                f"{name}_{side}": float(answers.figures[name][prompt, decoding])
                for name in self.after.figures
                for side, answers in sides.items()
                if name in answers.figures
            }
            row = {
                "prompt": self.prompts[prompt],
                "reference": self.references[prompt],
                "decoding": self.decodings[decoding],
                **{side: answers.texts[prompt][decoding] for side, answers in sides.items()},
                "difference": figures[f"{self.aim}_after"] - figures[f"{self.aim}_before"],
                **{name: None if np.isnan(x) else x for name, x in figures.items()},
            }
            rows.append(row)
        return sorted(rows, key=lambda row: row["difference"], reverse=self.aim == "score")


class BatchComparison(NamedTuple):
    """The comparison of one batch of prompts, and their indices among all prompts."""

    places: list[int]
    comparison: Comparison


def merge(batches: list[BatchComparison]) -> Comparison:
    """Puts the batches of all ranks together, in the order of the prompts; a collective call."""
    batches = gather_lists(batches)
    order = np.argsort([place for batch in batches for place in batch.places])
    parts = [batch.comparison for batch in batches]

    def ordered(column: list[list[Any]]) -> list[Any]:
        rows = list(chain.from_iterable(column))
        return [rows[place] for place in order]

    def answers(sides: list[Answers]) -> Answers:
        figures = {
            name: np.concatenate([side.figures[name] for side in sides])[order]
            for name in sides[0].figures
        }
        return Answers(ordered([side.texts for side in sides]), figures)

    return Comparison(
        ordered([part.prompts for part in parts]),
        ordered([part.references for part in parts]),
        parts[0].decodings,
        answers([part.before for part in parts]),
        answers([part.after for part in parts]),
        {name: answers([x.baselines[name] for x in parts]) for name in parts[0].baselines},
    )


def gather_lists(items: list[Item]) -> list[Item]:
    """Concatenates the lists of all ranks; a collective call where there are several."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    lists: list[list[Item]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(lists, items)
    return list(chain.from_iterable(lists))
