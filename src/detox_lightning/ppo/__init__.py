"""The PPO stage: one rollout and the updates from it."""

from detox_lightning.ppo.module import PPOModule

__all__ = ["PPOModule"]
