"""How far our numbers are from the recorded ones."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

Parameters = dict[str, Tensor]

# TRL's numbers are float32 and ours are computed in float64: their distance is the rounding of the
# recorded numbers, the same on every processor, and below the bounds that ``numerics`` derives
PER_TOKEN = 2e-5
EXACT = 5e-6  # of gradients, weights and means


def well_conditioned(gradients: Parameters) -> dict[str, Tensor]:
    """Where Adam's first step is a function of the gradient and not of its rounding.

    That step is ``lr * g / (|g| + 1e-8)``: where a gradient, clipped to a norm of 0.05, is as small
    as its own rounding error, the last bits of a sum decide it, and they are the processor's.
    """
    masks = {name: gradient.abs() > 3e-7 for name, gradient in gradients.items()}
    left_out = sum(int((~mask).sum()) for mask in masks.values())
    assert left_out < 0.002 * sum(mask.numel() for mask in masks.values())
    return masks


class Deviations:
    """The largest deviation seen of each array, and a check that it stays within the tolerance."""

    def __init__(self) -> None:
        self.largest: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self.tolerances: dict[str, float] = {}

    def check(
        self,
        where: str,
        array: str,
        ours: Tensor | float,
        recorded: Tensor | float,
        mask: Tensor | None = None,
        tolerance: float = PER_TOKEN,
    ) -> None:
        """Notes the deviation of an array, and fails where it is above the tolerance.

        Args:
            where: The set.
            array: The table's row.
            ours: What the package computes.
            recorded: What TRL computed, in the same shape.
            mask: Where to look; None: everywhere.
            tolerance: Absolute.
        """
        ours, recorded = torch.as_tensor(ours).detach(), torch.as_tensor(recorded)
        assert ours.shape == recorded.shape, f"{where}: {array}"
        difference = (ours.double() - recorded.double()).abs()
        if mask is not None:
            difference = difference[mask]
        assert not difference.isnan().any(), f"{where}: {array}"
        worst = float(difference.max())
        row = self.largest[array]
        row[where] = max(row.get(where, 0.0), worst)
        self.tolerances[array] = tolerance
        assert worst <= tolerance, f"{where}: {array} is off by {worst:.2e} (> {tolerance:.0e})"

    def check_parameters(
        self,
        where: str,
        array: str,
        ours: Parameters,
        recorded: Parameters,
        mask: dict[str, Tensor] | None = None,
    ) -> None:
        """:meth:`check` of every recorded parameter, or gradient, by name."""
        assert recorded
        for name, value in recorded.items():
            where_to_look = None if mask is None else mask[name]
            self.check(where, array, ours[name], value, where_to_look, EXACT)

    def table(self) -> str:
        """Rows of array, largest deviation, tolerance, and the set it was seen in."""
        rows: list[tuple[Any, ...]] = [("array", "largest", "tolerance", "in set")]
        for array, seen in sorted(self.largest.items()):
            where = max(seen, key=seen.__getitem__)
            rows.append((array, f"{seen[where]:.1e}", f"{self.tolerances[array]:.0e}", where))
        return "\n".join("{:<34}{:>9}{:>11}  {}".format(*row) for row in rows)
