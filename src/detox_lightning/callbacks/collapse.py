"""Warns when a policy starts to collapse or games its reward, and names what usually helps."""

from typing import Any, NamedTuple

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.callbacks.dashboard import tensorboard_loggers
from detox_lightning.callbacks.hacking import IN_A_ROW, SUSPICIONS, Watch
from detox_lightning.protocols import as_stage
from detox_lightning.stages.flag_changes import measures_alike

_TIMES_TARGET = 3.0
_KL_WITHOUT_TARGET = 18.0  # nats per response: three times the usual target, 6
_RESTRAINT = "a lower model.optimizer.lr, a higher model.kl.coef"
_HARDER_TO_GAME = (
    "a bounded reward (output: probability), a second classifier in the reward (WeightedReward "
    "with combine: min)"
)


class Sign(NamedTuple):
    """A sign of collapse.

    Attributes:
        flag: The flag of its bound, in the section ``collapse``.
        observation: What is observed, with a placeholder for the figure.
        remedy: What usually helps.
        is_floor: Whether figures below the bound are a sign, rather than those above.
    """

    flag: str
    observation: str
    remedy: str
    is_floor: bool = False

    def is_seen(self, figure: float, bound: float) -> bool:
        """Whether a figure (NaN: unknown) is beyond the bound."""
        return figure < bound if self.is_floor else figure > bound


SIGNS = (
    Sign(
        "empty",
        "{:.0%} of the responses are empty",
        f"a reward that is low for empty responses (add a LengthReward), {_RESTRAINT}",
    ),
    Sign(
        "kl",
        "the KL divergence from the reference is {:.1f} nats per response",
        f"{_RESTRAINT}, a smaller model.kl.horizon, fewer model.ppo_epochs or model.early_stop_kl",
    ),
    Sign(
        "entropy",
        "the entropy is {:.4f} nats per token",
        f"a higher model.loss.ent_coef, {_RESTRAINT}",
        is_floor=True,
    ),
    Sign(
        "same",
        "{:.0%} of the prompts get the same response",
        f"a reward that is low for this response, a higher model.loss.ent_coef, {_RESTRAINT}",
    ),
)


class CollapseCallback(Callback):
    """Warns when a policy starts to collapse: once for each sign, and again if the sign returns.

    The signs are empty responses, a KL divergence far above its target, an entropy near 0, one
    response to different prompts, and, at validations, a reward that is being gamed.
    ``objective/signs_of_collapse`` logs how many there are.
    """

    def __init__(
        self,
        empty: ClosedUnitInterval = 0.5,
        kl: PositiveFloat | None = None,
        entropy: NonNegativeFloat = 0.01,
        same: ClosedUnitInterval = 0.9,
        rollouts: PositiveInt = 3,
        hacking: PositiveFloat = 0.05,
    ):
        """Sets the bounds.

        Args:
            empty: A larger share of empty responses is a sign; 1 for never.
            kl: A larger KL divergence from the reference, in nats per response, is a sign. null:
                three times ``model.kl.target``, or 18 if that is null.
            entropy: A smaller entropy, in nats per token, is a sign; 0 for never.
            same: A larger share of prompts with the same response is a sign; 1 for never.
            rollouts: A sign counts after it was seen in this many rollouts in a row, and ends
                after it was not seen in this many.
            hacking: It is a sign if, while the score rises, the gap between the toxicity by
                ``model.evaluation.second_toxicity_model``, which stands, and by the first
                classifier grows by more than this, or the similarity to the prompt falls by more
                than this: since the best validation, in two validations in a row, beyond what
                chance does; 2 for never.
        """
        self.empty = empty
        self.kl = kl
        self.entropy = entropy
        self.same = same
        self.rollouts = rollouts
        self.hacking = hacking
        self.watches = [Watch(suspicion) for suspicion in SUSPICIONS]
        self.lasting: dict[str, bool] = {}  # by flag: whether the sign counts
        self.changed: dict[str, int] = {}  # by flag: the last rollouts in a row that say otherwise

    def state_dict(self) -> dict[str, Any]:
        """Returns which signs count, how many rollouts say otherwise, and the best validations."""
        watches = [{"rollout": watch.rollout, "best": watch.best} for watch in self.watches]
        return {"lasting": dict(self.lasting), "changed": dict(self.changed), "watches": watches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.lasting, self.changed = dict(state_dict["lasting"]), dict(state_dict["changed"])
        for watch, state in zip(self.watches, state_dict.get("watches", []), strict=False):
            watch.rollout, watch.best = state["rollout"], dict(state["best"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Forgets the best validations if this run's are measured otherwise."""
        if not measures_alike(pl_module, checkpoint):
            checkpoint["callbacks"].get(self.state_key, {}).pop("watches", None)

    def bounds(self, kl_target: float | None) -> dict[str, float]:
        """Returns the bounds by flag.

        Args:
            kl_target: Target of the KL controller, in nats per response; None: the coefficient is
                fixed.
        """
        kl = self.kl or (_KL_WITHOUT_TARGET if kl_target is None else _TIMES_TARGET * kl_target)
        return {"empty": self.empty, "kl": kl, "entropy": self.entropy, "same": self.same}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Checks a rollout's figures, which are those of all ranks."""
        stage, metrics = as_stage(pl_module), trainer.callback_metrics
        if stage is None or "objective/kl" not in metrics:
            return
        entropy = abs(float(metrics["objective/entropy"]))  # no -0.0000
        figures = {
            "empty": float(metrics["objective/empty_rate"]),
            "kl": float(metrics["objective/kl"]),
            "entropy": entropy / float(metrics["tokens/responses_len_mean"]),
            "same": float(metrics["objective/same_response"]),
        }
        bounds, done = self.bounds(stage.kl_target), stage.rollouts or 0
        for sign in SIGNS:
            figure, bound = figures[sign.flag], bounds[sign.flag]
            if not self.has_begun(sign.flag, sign.is_seen(figure, bound)):
                continue
            line = (
                f"rollout {done - 1}: the policy is collapsing: {sign.observation.format(figure)} "
                f"(collapse.{sign.flag}={bound:g}, collapse.rollouts={self.rollouts}). What "
                f"usually helps: {sign.remedy}; resume from a checkpoint from before the collapse"
            )
            _tell(trainer, line, done)
        count = float(sum(self.lasting.values()))
        pl_module.log("objective/signs_of_collapse", count, batch_size=1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks whether a validation shows that the reward is being gamed."""
        stage = as_stage(pl_module)
        found = None if stage is None else stage.validation
        if stage is None or found is None or trainer.state.fn != TrainerFn.FITTING:
            return
        done = stage.rollouts or 0
        for watch in self.watches:
            flag = f"hacking, {watch.suspicion.names[-1]}"
            if not found.figures.keys() >= {*watch.suspicion.names}:
                continue
            is_seen = watch.is_seen(found.figures, done, self.hacking)
            if self.has_begun(flag, is_seen, IN_A_ROW):
                line = (
                    f"validation after rollout {done}: hacking, the reward is being gamed: "
                    f"{watch.describe(found.figures)} (collapse.hacking={self.hacking:g}). What "
                    f"usually helps: {_HARDER_TO_GAME}, a higher model.kl.coef; an earlier "
                    f"checkpoint, such as one of rollout {watch.rollout}, may be better"
                )
                _tell(trainer, line, done)

    def has_begun(self, flag: str, is_seen: bool, in_a_row: int | None = None) -> bool:
        """Records whether a rollout shows a sign; returns whether the sign counts from now on.

        ``in_a_row`` rollouts must do so; None: as many as the option says.
        """
        now = self.lasting.setdefault(flag, False)
        self.changed[flag] = self.changed.get(flag, 0) + 1 if is_seen != now else 0
        if self.changed[flag] < (in_a_row or self.rollouts):
            return False
        self.lasting[flag], self.changed[flag] = not now, 0
        return not now


def _tell(trainer: Trainer, line: str, done: int) -> None:
    """Warns, and adds the line to TensorBoard's texts."""
    rank_zero_warn(line)
    for logger in tensorboard_loggers(trainer) if trainer.is_global_zero else []:
        logger.experiment.add_text("collapse", line, done)
