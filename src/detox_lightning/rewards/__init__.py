"""Rewards: scores of responses.

The page docs/recipes/reward.md shows how to write one of your own, a function or a class. A text
does not show that the length limit cut it off: ``scores.missing_eos_penalty`` of ``PPOModule``
charges for that, with any reward.
"""

from detox_lightning.rewards.classifier_reward import ClassifierReward
from detox_lightning.rewards.function_reward import FunctionReward
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.length import LengthReward
from detox_lightning.rewards.prefix_reward import PrefixReward
from detox_lightning.rewards.rouge_reward import RougeReward
from detox_lightning.rewards.similarity_reward import SimilarityReward
from detox_lightning.rewards.weighted import WeightedReward

__all__ = [
    "ClassifierReward",
    "FunctionReward",
    "LengthReward",
    "PrefixReward",
    "Reward",
    "RougeReward",
    "SimilarityReward",
    "WeightedReward",
]
