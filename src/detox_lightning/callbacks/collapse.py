"""Warns when a policy begins to collapse, with what usually helps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.callbacks.logger_features import tensorboard_loggers
from detox_lightning.protocols import as_stage

_TIMES_TARGET = 3.0
_KL_WITHOUT_TARGET = 18.0  # nats a response: three times the usual target, 6
_RESTRAINT = "a lower model.optimizer.lr, a higher model.kl.coef"


class Sign(NamedTuple):
    """A sign of collapse.

    Attributes:
        flag: Of its bound, in the section ``collapse``.
        observation: What is observed, with a placeholder for the figure.
        remedy: What usually helps.
        bound: What the figure should not cross.
        is_floor: Whether the figure should stay above the bound, rather than below.
    """

    flag: str
    observation: str
    remedy: str
    bound: float
    is_floor: bool = False

    def is_seen(self, figure: float) -> bool:
        """Whether a figure (NaN: unknown) is beyond the bound."""
        return figure < self.bound if self.is_floor else figure > self.bound


class CollapseCallback(Callback):
    """Warns when a policy begins to collapse: once for each sign, again when it had gone.

    The signs are empty responses, a KL divergence far above its target, an entropy near 0, and one
    response to different prompts. How many there are is logged as ``collapse/signs``.
    """

    def __init__(
        self,
        empty: ClosedUnitInterval = 0.5,
        kl: PositiveFloat | None = None,
        entropy: NonNegativeFloat = 0.01,
        same: ClosedUnitInterval = 0.9,
        rollouts: PositiveInt = 3,
    ):
        """Sets the bounds.

        Args:
            empty: A larger share of empty responses is a sign; 1 for never.
            kl: A larger KL divergence from the reference, in nats a response, is a sign. null:
                three times ``model.kl.target``, or 18 where that is null.
            entropy: A smaller entropy, in nats a token, is a sign; 0 for never.
            same: A larger share of prompts with the same response is a sign; 1 for never.
            rollouts: A sign counts when it has been there for so many rollouts in a row, and has
                ended when it has been gone for so many.
        """
        self.empty = empty
        self.kl = kl
        self.entropy = entropy
        self.same = same
        self.rollouts = rollouts
        self.lasting: dict[str, bool] = {}  # by flag: whether the sign counts
        self.changed: dict[str, int] = {}  # by flag: for how many rollouts it has looked otherwise

    def state_dict(self) -> dict[str, Any]:
        """Returns which signs count, and since when they look otherwise."""
        return {"lasting": dict(self.lasting), "changed": dict(self.changed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` returned."""
        self.lasting, self.changed = dict(state_dict["lasting"]), dict(state_dict["changed"])

    def signs(self, kl_target: float | None) -> list[Sign]:
        """Returns all signs, with their bounds.

        Args:
            kl_target: Of the KL controller, in nats a response; None: the coefficient is fixed.
        """
        kl = self.kl or (_KL_WITHOUT_TARGET if kl_target is None else _TIMES_TARGET * kl_target)
        return [
            Sign(
                "empty",
                "{:.0%} of the responses are empty",
                f"a reward that silence doesn't please (part of it a LengthReward), {_RESTRAINT}",
                self.empty,
            ),
            Sign(
                "kl",
                "the KL divergence from the reference is {:.1f} nats a response",
                f"{_RESTRAINT}, a smaller model.kl.horizon, fewer model.ppo_epochs or "
                "model.early_stop_kl",
                kl,
            ),
            Sign(
                "entropy",
                "the entropy is {:.4f} nats a token",
                f"a higher model.loss.ent_coef, {_RESTRAINT}",
                self.entropy,
                is_floor=True,
            ),
            Sign(
                "same",
                "{:.0%} of the prompts get the same response",
                f"a reward that it doesn't please, a higher model.loss.ent_coef, {_RESTRAINT}",
                self.same,
            ),
        ]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Checks a rollout's figures, which are those of all ranks."""
        stage = as_stage(pl_module)
        if stage is None or "objective/kl" not in trainer.callback_metrics:
            return
        figures, done = _figures_of(trainer.callback_metrics), stage.rollouts or 0
        for sign in self.signs(stage.kl_target):
            if not self.has_begun(sign, figures[sign.flag]):
                continue
            line = (
                f"rollout {done - 1}: the policy collapses: "
                f"{sign.observation.format(figures[sign.flag])}, for {self.rollouts} rollouts "
                f"(collapse.{sign.flag}={sign.bound:g}). What usually helps: {sign.remedy}; and to "
                "go on from a checkpoint from before it"
            )
            rank_zero_warn(line)
            for logger in tensorboard_loggers(trainer) if trainer.is_global_zero else []:
                logger.experiment.add_text("collapse", line, done)
        pl_module.log("collapse/signs", float(sum(self.lasting.values())), batch_size=1)

    def has_begun(self, sign: Sign, figure: float) -> bool:
        """Takes in a rollout's figure; returns whether the sign counts from now on."""
        now = self.lasting.setdefault(sign.flag, False)
        otherwise = sign.is_seen(figure) != now
        self.changed[sign.flag] = self.changed.get(sign.flag, 0) + 1 if otherwise else 0
        if self.changed[sign.flag] < self.rollouts:
            return False
        self.lasting[sign.flag], self.changed[sign.flag] = not now, 0
        return not now


def _figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the signs' figures by their flags, from all that was logged."""
    length = float(metrics["tokens/responses_len_mean"])
    return {
        "empty": float(metrics["objective/empty_rate"]),
        "kl": float(metrics["objective/kl"]),
        "entropy": abs(float(metrics["objective/entropy"])) / length,  # no -0.0000
        "same": float(metrics["objective/same_response"]),
    }
