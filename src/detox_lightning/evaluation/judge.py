"""Lets policy or reference answer prompts, and judges the answers."""

from typing import NamedTuple

import torch
from torch import Tensor

from detox_lightning.data.batch import PromptBatch
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import Reward
from detox_lightning.rollout import Responses, measure


class Verdicts(NamedTuple):
    """What is known of ``b`` responses, each ``[b]``.

    Attributes:
        score: What the reward says.
        toxicity: Probability of the toxic label.
        kl: Sum over tokens of the log-ratio of policy to reference, in nats.
        length: Tokens, EOS included.
        has_eos: Whether the response ended by itself.
    """

    score: Tensor
    toxicity: Tensor
    kl: Tensor
    length: Tensor
    has_eos: Tensor


class Toxicity:
    """Probability that a classifier gives its toxic label."""

    def __init__(self, classifier: TextClassifier, label: str):
        """Finds the label.

        Args:
            classifier: A loaded classifier.
            label: Its toxic label, by name.

        Raises:
            InputError: If the classifier has no such label.
        """
        self.classifier = classifier
        self.index = classifier.label_index(label)

    def __call__(self, texts: list[str]) -> Tensor:
        """``[n]`` probabilities for ``n`` texts."""
        return self.classifier(texts).softmax(dim=-1)[:, self.index]


def judge_responses(
    policy: Policy, reward: Reward, toxicity: Toxicity, batch: PromptBatch, responses: Responses
) -> Verdicts:
    """Scores responses, and measures their toxicity and their distance from the reference.

    Args:
        policy: The policy.
        reward: The reward it is trained for.
        toxicity: What measures toxicity.
        batch: ``b`` prompts.
        responses: Their responses.
    """
    score = reward(batch.prompts, responses.texts, batch.references)
    kl = measure(policy, batch, responses, score).kl
    return Verdicts(
        score=score,
        toxicity=toxicity(responses.texts),
        kl=torch.where(responses.mask, kl, 0).sum(dim=1),
        length=responses.mask.sum(dim=1),
        has_eos=responses.has_eos(policy.eos_token_id),
    )
