"""Checks of a PPO run that need no model, so that mistakes are told before one is opened."""

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.algorithm.advantages import AdvantageEstimator
from detox_lightning.algorithm.losses import PolicyLoss
from detox_lightning.errors import InputError, check_divides
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.rewards import Reward
from detox_lightning.rewards.interface import check_name


def check_loss(loss: PolicyLoss, advantage: AdvantageEstimator) -> None:
    """Raises an InputError if the advantages need a value head and the loss trains none."""
    if advantage.uses_values and "value" not in loss.coefficients:
        raise InputError(
            f"model.loss={type(loss).__name__} trains no value head, and "
            f"model.advantage={type(advantage).__name__} needs one: give advantage GRPO, RLOO or "
            "Reinforce, or loss PPOLoss"
        )


def check_reward_names(reward: Reward) -> None:
    """Raises an InputError if a part of the reward has a name that no table or chart can show."""
    for part in reward.modules():
        if isinstance(part, Reward):
            check_name(part.name)


def warn_of_narrow_sampling(sampling: Sampling) -> None:
    """Warns where responses are not drawn from the policy's whole distribution."""
    if not sampling.is_exact:
        rank_zero_warn(
            f"model.sampling.top_k={sampling.top_k}, top_p={sampling.top_p}: "
            "responses come from a narrower distribution than the one whose log-probabilities "
            "are trained on; top_k=0 and top_p=1 are exact"
        )


def check_schedule(name: str, max_steps: int) -> None:
    """Raises an InputError if a schedule would take ``trainer.max_steps`` for rollouts."""
    if name != "constant" and max_steps > 0:
        raise InputError(
            f"trainer.max_steps={max_steps} counts optimizer steps, and "
            f"model.schedule.name={name} goes by rollouts: bound the run with "
            "trainer.max_epochs and trainer.limit_train_batches"
        )


def check_batch_size(mini_batch_size: int, prompts: int, k: int) -> None:
    """Raises an InputError if a rank's responses don't split into mini-batches."""
    flag = "data.batch_size" + (f" × {k} responses" if k > 1 else "")
    check_divides("model.mini_batch_size", mini_batch_size, flag, prompts * k)
