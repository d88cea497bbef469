"""The three training stages, and the sharded strategy, by their public names."""

from detox_lightning.ppo import PPOModule
from detox_lightning.stages import RewardModule, ShardedStrategy, SupervisedModule

__all__ = ["PPOModule", "RewardModule", "ShardedStrategy", "SupervisedModule"]
