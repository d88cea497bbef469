"""A policy that collapses is named when it begins to, with what usually helps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

TIMES_TARGET = 3.0
KL = 18.0  # nats a response, where there is no target: that of the usual one, 6


class Sign(NamedTuple):
    """What a collapse shows itself by.

    Attributes:
        flag: Of its bound, in the section ``collapse``.
        says: What is so, with the place of a figure in it.
        helps: What usually does.
        bound: What the figure should not cross.
        is_floor: Whether it should not fall below the bound, rather than rise above it.
    """

    flag: str
    says: str
    helps: str
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
        self.lasting: dict[str, bool] = {}  # flag: whether the sign counts
        self.changed: dict[str, int] = {}  # flag: for how many rollouts it has looked otherwise

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know."""
        return {"lasting": dict(self.lasting), "changed": dict(self.changed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from that."""
        self.lasting, self.changed = dict(state_dict["lasting"]), dict(state_dict["changed"])

    def signs(self, target: float | None) -> list[Sign]:
        """All signs, with their bounds.

        Args:
            target: Of the KL controller, in nats a response; None: the coefficient is fixed.
        """
        kl = self.kl or (KL if target is None else TIMES_TARGET * target)
        restraint = "a lower model.optimizer.lr, a higher model.kl.coef"
        return [
            Sign(
                "empty",
                "{:.0%} of the responses are empty",
                f"a reward that silence doesn't please (part of it a LengthReward), {restraint}",
                self.empty,
            ),
            Sign(
                "kl",
                "the KL divergence from the reference is {:.1f} nats a response",
                f"{restraint}, a smaller model.kl.horizon, fewer model.ppo_epochs or "
                "model.early_stop_kl",
                kl,
            ),
            Sign(
                "entropy",
                "the entropy is {:.4f} nats a token",
                f"a higher model.loss.ent_coef, {restraint}",
                self.entropy,
                is_floor=True,
            ),
            Sign(
                "same",
                "{:.0%} of the prompts get the same response",
                f"a reward that it doesn't please, a higher model.loss.ent_coef, {restraint}",
                self.same,
            ),
        ]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Looks at a rollout's figures, which are those of all ranks."""
        if "objective/kl" not in trainer.callback_metrics:
            return
        module: Any = pl_module
        figures = figures_of(trainer.callback_metrics)
        for sign in self.signs(module.kl.target):
            if self.has_begun(sign, figures[sign.flag]):
                warn(trainer, self.line(sign, figures[sign.flag], module.rollouts), module.rollouts)
        signs = float(sum(self.lasting.values()))
        pl_module.log("collapse/signs", signs, batch_size=1)

    def has_begun(self, sign: Sign, figure: float) -> bool:
        """Takes in a rollout; whether a sign counts from now on.

        Args:
            sign: The sign.
            figure: Of the rollout.
        """
        now = self.lasting.setdefault(sign.flag, False)
        otherwise = sign.is_seen(figure) != now
        self.changed[sign.flag] = self.changed.get(sign.flag, 0) + 1 if otherwise else 0
        if self.changed[sign.flag] < self.rollouts:
            return False
        self.lasting[sign.flag], self.changed[sign.flag] = not now, 0
        return not now

    def line(self, sign: Sign, figure: float, rollouts: int) -> str:
        """What is said when a sign begins to count.

        Args:
            sign: The sign.
            figure: Of the newest rollout.
            rollouts: Done so far.
        """
        return (
            f"rollout {rollouts - 1}: the policy collapses: {sign.says.format(figure)}, for "
            f"{self.rollouts} rollouts (collapse.{sign.flag}={sign.bound:g}). What usually helps: "
            f"{sign.helps}; and to go on from a checkpoint from before it"
        )


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the signs are read from, by their flags.

    Args:
        metrics: All that was logged.
    """
    length = float(metrics["tokens/responses_len_mean"])
    return {
        "empty": float(metrics["objective/empty_rate"]),
        "kl": float(metrics["objective/kl"]),
        "entropy": abs(float(metrics["objective/entropy"])) / length,  # no -0.0000
        "same": float(metrics["objective/same_response"]),
    }


def warn(trainer: Trainer, line: str, rollouts: int) -> None:
    """Says a line, and puts it among TensorBoard's texts.

    Args:
        trainer: Whose loggers are told.
        line: The line.
        rollouts: Done so far, its place on the x-axis.
    """
    rank_zero_warn(line)
    for logger in trainer.loggers if trainer.is_global_zero else []:
        writer: Any = getattr(logger, "experiment", None)
        if hasattr(writer, "add_text"):
            writer.add_text("collapse", line, rollouts)
