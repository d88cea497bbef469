"""A limit on a measure of the responses, and the Lagrange multiplier that holds it."""

from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import PositiveFloat
from torch import Tensor

from detox_lightning.algorithm.metrics import CONSTRAINT, CONSTRAINT_STD
from detox_lightning.algorithm.types import Rollout
from detox_lightning.errors import InputError

KL = "kl"
PATIENCE = 10  # rollouts in a row at the bound, before this is said


@dataclass(frozen=True)
class Constraint:
    """A limit for the mean of a measure m; the score is maximized as far as the limit allows.

    Each response's score gets λ·m (-λ·m with ``at_most``). The multiplier λ begins at 0, grows
    while the limit is missed and falls while it is kept. ``kl``: λ is added to β instead.

    Attributes:
        measure: ``kl``, nats per response; ``rougeL`` or another kind of ROUGE; ``similarity`` to
            the prompt; or the name of a part of the reward, whose weight may be 0.
        at_least: The lowest mean that is allowed.
        at_most: The highest mean that is allowed; give this or ``at_least``.
        rate: How far λ moves in a rollout whose mean is a standard deviation beyond the limit; at 1
            by so much that the term varies as much as the score.
        most: Bound of the multiplier, by what it does: λ·m may vary this many times as much among
            responses as the score does.

    Raises:
        InputError: If there isn't one limit, or if KL shall be at least something.
    """

    measure: str = "rougeL"
    at_least: float | None = None
    at_most: float | None = None
    rate: PositiveFloat = 0.2
    most: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise InputError(
                f"model.constraint: at_least={self.at_least}, at_most={self.at_most}: give one of "
                f"them, the limit of {self.measure}"
            )
        if self.measure == KL and self.at_most is None:
            raise InputError(
                f"model.constraint.at_least={self.at_least}: the KL divergence is limited from "
                "above; give at_most"
            )

    @property
    def sign(self) -> int:
        """1 for a measure that should be large, -1 for one that should be small."""
        return -1 if self.at_least is None else 1

    @property
    def limit(self) -> float:
        """The limit, whichever side it is of."""
        return float((self.at_most if self.at_least is None else self.at_least) or 0)


class Multiplier:
    """The multiplier of a constraint; it follows from figures of all ranks, so they agree on it.

    Attributes:
        constraint: The limit; None: there is none, and nothing is changed.
        value: λ, the price of a unit of the measure in units of the score.
        at_bound: Rollouts in a row at the bound; once that was said, all rollouts since.
        unit: The unit of the last step; 0 before the first.
    """

    def __init__(self, constraint: Constraint | None = None):
        self.constraint, self.value, self.at_bound, self.unit = constraint, 0.0, 0, 0.0

    @property
    def measure(self) -> str | None:
        """The name of what is limited; None: nothing is."""
        return None if self.constraint is None else self.constraint.measure

    def measured(self, rollout: Rollout, parts: dict[str, Tensor]) -> Tensor | None:
        """Returns the measure of each response, ``[b]``, which may be one of the reward's parts.

        Raises:
            InputError: If the reward has no such part.
        """
        if self.constraint is None:
            return None
        name = self.constraint.measure
        if name == KL:
            return rollout.kl.where(rollout.response_mask, 0).sum(dim=1)
        if name not in parts:
            raise InputError(
                f"model.constraint.measure={name}: the reward has no such part, but "
                f"{', '.join(parts)}; give one of them, or {KL}"
            )
        return parts[name]

    def charge(self, kl_coef: float, measured: Tensor | None) -> tuple[float, Tensor | None]:
        """Returns the coefficient of the KL penalty, and what to add to the scores ``[b]``."""
        if self.constraint is None or measured is None:
            return kl_coef, None
        if self.constraint.measure == KL:
            return kl_coef + self.value, None
        return kl_coef, self.constraint.sign * self.value * measured

    def metrics(self) -> dict[str, float]:
        """Returns λ for the log, if there is a constraint."""
        return {} if self.constraint is None else {"objective/multiplier": self.value}

    def update(self, metrics: dict[str, float], score_std: float, kl_coef: float) -> str | None:
        """Moves the multiplier, by dual ascent in units that fit any score and any measure.

        λ ← clip(λ + rate·u·clip(excess / std, ±1), 0, most·u), where std is the measure's standard
        deviation. The unit u = (std of the scores + β) / std makes λ·m vary as much as the score;
        it at most doubles from rollout to rollout, as a single one may have hardly any spread. At
        the optimum for a fixed β, a change of λ by β / std moves the mean by one std.

        Args:
            metrics: The rollout's, with mean and standard deviation of the measure.
            score_std: Standard deviation of the scores, scaled if they are.
            kl_coef: β.

        Returns:
            Once in a run, after :data:`PATIENCE` rollouts at the bound, a line that says so.
        """
        if self.constraint is None:
            return None
        mean, std = metrics[CONSTRAINT], metrics[CONSTRAINT_STD]
        excess = self.constraint.sign * (self.constraint.limit - mean)
        if std <= 1e-6 * abs(excess):  # no response measures otherwise, so none can teach it
            return None
        unit = (score_std + kl_coef) / std
        self.unit = unit = min(unit, 2 * self.unit) if self.unit else unit
        step = min(max(excess / std, -1), 1) * self.constraint.rate
        bound = self.constraint.most * unit
        self.value = min(max(self.value + unit * step, 0.0), bound)
        is_stuck = (excess > 0 and self.value == bound) or self.at_bound >= PATIENCE
        self.at_bound = self.at_bound + 1 if is_stuck else 0
        if self.at_bound != PATIENCE:
            return None
        kind = "at_most" if self.constraint.at_least is None else "at_least"
        return (
            f"model.constraint: {self.constraint.measure} is {mean:.3g} where {kind} "
            f"{self.constraint.limit:g} is asked for, and the multiplier has stayed at its bound "
            f"for {PATIENCE} rollouts: give a limit that can be met, or a larger "
            "model.constraint.most"
        )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        numbers = {"value": self.value, "at_bound": self.at_bound, "unit": self.unit}
        return {"limited": self._limited, **numbers}

    def load(self, state: dict[str, Any] | None) -> None:
        """Goes on from a checkpoint's state, if its run limited the measure from the same side."""
        if state and state.get("limited") == self._limited:
            for name in ("value", "at_bound", "unit"):
                setattr(self, name, state.get(name, 0))

    @property
    def _limited(self) -> str | None:
        """The measure and the side that it is limited from."""
        if self.constraint is None:
            return None
        return f"{self.measure} {'at_least' if self.constraint.sign > 0 else 'at_most'}"
