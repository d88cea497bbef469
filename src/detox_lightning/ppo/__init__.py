"""The PPO stage: one rollout and the updates from it."""

from detox_lightning.ppo.module import PPOModule
from detox_lightning.protocols import Stage

__all__ = ["PPOModule"]

_stage: type[Stage] = PPOModule  # mypy checks that it is one
