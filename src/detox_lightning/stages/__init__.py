"""The supervised and the reward stage, and what all three training stages share."""

from detox_lightning.protocols import Stage
from detox_lightning.stages.reward import RewardModule
from detox_lightning.stages.strategy import ShardedStrategy
from detox_lightning.stages.supervised import SupervisedModule

__all__ = ["RewardModule", "ShardedStrategy", "SupervisedModule"]

_stages: tuple[type[Stage], ...] = (RewardModule, SupervisedModule)  # mypy checks that they are
