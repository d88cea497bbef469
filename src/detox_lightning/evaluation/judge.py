"""Lets policy or reference answer prompts, and judges the answers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detox_lightning.batch import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import ClassifierReward, Reward
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


class Toxicity(nn.Module):
    """Probability that a classifier gives its toxic label."""

    def __init__(self, model: str | None, label: str, reward: Reward):
        """Finds out which classifier is asked.

        Args:
            model: Name of the classifier; None: the reward's own.
            label: Its toxic label, by name.
            reward: The reward that is trained for.

        Raises:
            InputError: If no classifier is named and the reward is none.
        """
        super().__init__()
        own = reward.classifier if isinstance(reward, ClassifierReward) else None
        classifier = TextClassifier(model) if model else own
        if classifier is None:
            raise InputError(
                "model.toxicity_model: the reward is no classifier; name one that measures toxicity"
            )
        self.classifier = classifier
        self.label = label

    def load(self) -> None:
        """Opens the classifier, once.

        Raises:
            InputError: If there is no such classifier, or it lacks the label.
        """
        self.classifier.load()
        self.index = self.classifier.label_index(self.label)

    def forward(self, texts: list[str]) -> Tensor:
        """``[n]`` probabilities for ``n`` texts."""
        probabilities: Tensor = self.classifier(texts).softmax(dim=-1)
        return probabilities[:, self.index]


def judge_responses(
    policy: Policy,
    reward: Reward,
    toxicity: Toxicity,
    batch: PromptBatch,
    responses: Responses,
    micro_batch_size: int | None = None,
) -> Verdicts:
    """Scores responses, and measures their toxicity and their distance from the reference.

    Args:
        policy: The policy.
        reward: The reward it is trained for.
        toxicity: What measures toxicity.
        batch: ``b`` prompts.
        responses: Their responses.
        micro_batch_size: Rows of one forward pass; None for all.
    """
    score = reward(batch.prompts, responses.texts, batch.references)
    kl = measure(policy, batch, responses, score, "k1", micro_batch_size).kl
    return Verdicts(
        score=score,
        toxicity=toxicity(responses.texts),
        kl=torch.where(responses.mask, kl, 0).sum(dim=1),
        length=responses.mask.sum(dim=1),
        has_eos=responses.has_eos(policy.eos_token_id),
    )
