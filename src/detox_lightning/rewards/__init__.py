"""Rewards: scores of responses.

Your own reward is a class in a file, here ``my_rewards.py``::

    import torch
    from detox_lightning.rewards import Reward
    class Politeness(Reward):
        name = "politeness"
        def __init__(self, words: str = "please thank"):
            super().__init__()
            self.words = words.split()
        def forward(self, prompts, responses, references):
            polite = [sum(word in text.lower() for word in self.words) for text in responses]
            return torch.tensor(polite, dtype=torch.float32)

``--model.reward my_rewards.Politeness --model.reward.words please`` trains for it, with
``python -m detox_lightning fit`` in that file's folder, or anywhere with the folder in
``PYTHONPATH``; a :class:`WeightedReward` adds other terms. Open models in :meth:`Reward.load`, not
in the constructor. Exceptions of a reward are explained in ``reward_errors.py``.

A text does not show that the length limit cut it off: ``scores.missing_eos_penalty`` of
``PPOModule`` charges for that, with any reward.
"""

from detox_lightning.rewards.classifier_reward import ClassifierReward
from detox_lightning.rewards.interface import Reward
from detox_lightning.rewards.length import LengthReward
from detox_lightning.rewards.rouge_reward import RougeReward
from detox_lightning.rewards.weighted import WeightedReward

__all__ = ["ClassifierReward", "LengthReward", "Reward", "RougeReward", "WeightedReward"]
