"""What text is worth."""

from detox_lightning.rewards.base import Reward
from detox_lightning.rewards.classifier import ClassifierReward

__all__ = ["ClassifierReward", "Reward"]
