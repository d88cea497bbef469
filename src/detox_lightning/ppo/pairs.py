"""Flags of PPO that don't go together."""

from detox_lightning.algorithm.advantages import GDPO, AdvantageEstimator
from detox_lightning.algorithm.losses import PolicyLoss
from detox_lightning.errors import InputError
from detox_lightning.rewards import Reward


def check_pairs(advantage: AdvantageEstimator, loss: PolicyLoss, reward: Reward) -> None:
    """Raises an InputError if loss or reward lack what the advantages need."""
    name = type(advantage).__name__
    if advantage.uses_values and "value" not in loss.coefficients:
        raise InputError(
            f"model.loss={type(loss).__name__} trains no value head, and model.advantage={name} "
            "needs one: give advantage GRPO, RLOO or Reinforce, or loss PPOLoss"
        )
    if isinstance(advantage, GDPO) and type(reward).parts is Reward.parts:
        raise InputError(
            f"model.advantage={name} standardizes each part of a reward, and the reward "
            f"{reward.name!r} has no parts: give a WeightedReward, or advantage GRPO"
        )
