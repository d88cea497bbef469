"""Answers of policy and reference to the same prompts, judged and summed up."""

from typing import Any

import torch
from torch import Tensor

from detox_lightning.batch import PromptBatch
from detox_lightning.evaluation.judge import Toxicity, judge_responses
from detox_lightning.evaluation.meter import ResponseMeter
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import Reward
from detox_lightning.rollout import Responses, respond
from detox_lightning.seeding import seeded


class Evaluator:
    """Judges what policy and reference answer, given the same prompts and the same noise."""

    def __init__(
        self,
        policy: Policy,
        tokenizer: Any,
        reward: Reward,
        toxicity: Toxicity,
        micro_batch_size: int | None = None,
    ):
        """Puts together what an evaluation needs.

        Args:
            policy: The policy, on its device.
            tokenizer: The policy's.
            reward: The reward it is trained for.
            toxicity: What measures toxicity.
            micro_batch_size: Responses per forward pass; None: all of a batch.
        """
        self.policy = policy
        self.tokenizer = tokenizer
        self.reward = reward
        self.toxicity = toxicity
        self.micro_batch_size = micro_batch_size
        self.meters: dict[str, ResponseMeter] = {}

    def sample(self, batch: PromptBatch, seed: int, name: str) -> Responses:
        """Samples responses up to the longest length.

        Args:
            batch: ``b`` prompts.
            seed: Of the sampling noise.
            name: ``before`` asks the reference, ``after`` the policy.
        """
        policy, device = self.policy, batch.prompt_ids.device
        options = policy.sampling.generate_options(policy.sampling.limits[1])
        with policy.reference_if(name == "before"), seeded(seed, device):
            return respond(policy, self.tokenizer, batch, **options)

    def judge(self, batch: PromptBatch, seed: int, name: str) -> None:
        """Samples responses and adds what is known of them to a meter.

        Args:
            batch: ``b`` prompts.
            seed: Of the sampling noise.
            name: The meter, as for :meth:`sample`.
        """
        responses = self.sample(batch, seed, name)
        verdicts = judge_responses(
            self.policy, self.reward, self.toxicity, batch, responses, self.micro_batch_size
        )
        meter = self.meters.setdefault(name, ResponseMeter().to(batch.prompt_ids.device))
        meter.update(verdicts, responses.texts, batch.references)

    def means(self, name: str) -> dict[str, Tensor]:
        """A meter's means over all ranks, by name; the meter is emptied."""
        return self.meters.pop(name).compute()


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """``after / before - 1``: -0.9 where nine tenths are gone."""
    return after / torch.where(before == 0, torch.nan, before) - 1
