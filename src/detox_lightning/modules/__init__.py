"""The training stages as LightningModules: supervised, reward, PPO."""

from detox_lightning.modules.ppo import PPOModule
from detox_lightning.modules.reward import RewardModule
from detox_lightning.modules.strategy import ShardedStrategy
from detox_lightning.modules.supervised import SupervisedModule

__all__ = ["PPOModule", "RewardModule", "ShardedStrategy", "SupervisedModule"]
