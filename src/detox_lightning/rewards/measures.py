"""Parts of a reward that are measured and not paid for, such as what a constraint limits."""

from detox_lightning.errors import InputError
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, RougeReward
from detox_lightning.rewards.similarity_reward import SimilarityReward
from detox_lightning.rewards.weighted import WeightedReward


def with_measure(reward: Reward, name: str | None) -> Reward:
    """Returns the reward with a part ``name``, which is added with the weight 0 if it lacks it.

    A class that overrides :meth:`Reward.parts` is returned as it is: its parts aren't known yet.

    Raises:
        InputError: If the reward lacks it, and it is none of the package's.
    """
    terms = [(1.0, reward)]
    if isinstance(reward, WeightedReward):
        terms = reward.weighted
    elif type(reward).parts is not Reward.parts:
        return reward
    names = [part.name for _, part in terms]
    if name in (None, "kl", *names):
        return reward
    if name == SimilarityReward.name:
        measure: Reward = SimilarityReward()
    elif name in ROUGE_KINDS:
        measure = RougeReward(name)
    else:
        raise InputError(
            f"model.constraint.measure={name}: it is no part of the reward: give one of "
            f"{', '.join(dict.fromkeys(['kl', 'similarity', *ROUGE_KINDS, *names]))}"
        )
    weights, parts = zip(*terms, (0.0, measure), strict=True)
    return WeightedReward(list(parts), list(weights), getattr(reward, "combine", "sum"))
