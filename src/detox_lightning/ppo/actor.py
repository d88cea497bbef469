"""The actor collects rollouts: it samples responses, has them scored, and measures them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detox_lightning.algorithm.kl import Estimator
from detox_lightning.algorithm.types import Rollout
from detox_lightning.batches import PromptBatch
from detox_lightning.errors import NoStopIteration, TrainingError
from detox_lightning.models.decoding.static_step import retried_uncaptured
from detox_lightning.models.policy import Policy
from detox_lightning.models.sharding import gathered
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.ranks import Ranks
from detox_lightning.rewards import Reward
from detox_lightning.rewards.interface import PREFIXES
from detox_lightning.rollout import Responses, Scores, first_nonfinite, measure, sample, score
from detox_lightning.seeding import derive_seed, seeded
from detox_lightning.stages.faults import LOOK_AT_ROLLOUT, Faults


@dataclass
class Actor:
    """Collects rollouts, numbered from 0, and registers them in case something is not finite.

    Attributes:
        policy: The model that is sampled from.
        tokenizer: The policy's.
        reward: What responses are worth.
        estimator: Estimates the KL divergence from the reference.
        ranks: The processes that learn together.
        seed: Seed of all noise.
        micro_batches: Responses of one forward pass.
        faults: Records rollouts that are not finite.
    """

    policy: Policy
    tokenizer: Any
    reward: Reward
    estimator: Estimator
    ranks: Ranks
    seed: int
    micro_batches: MicroBatches
    faults: Faults

    @retried_uncaptured
    def respond_to(self, prompts: PromptBatch, number: int) -> Responses:
        """Samples responses to ``b`` prompts; the noise is a function of (seed, rollout, rank)."""
        limit = self.policy.sampling.draw_limit(derive_seed(self.seed, "limit", number))
        noise = derive_seed(self.seed, "rollout", number, self.ranks.own)
        record = self.policy.records_exactly and self.estimator != "full"
        with seeded(noise, prompts.prompt_ids.device), gathered(self.policy):
            return sample(self.policy, self.tokenizer, prompts, limit, record)

    def register(self, prompts: PromptBatch, responses: Responses, number: int) -> None:
        """Registers the current rollout, which is recorded if something of it is not finite."""
        texts = {"prompts": prompts.prompts, "references": prompts.references}
        self.faults.begin(
            place_of(number),
            {**texts, "responses": responses.texts},
            prompt_ids=prompts.prompt_ids,
            response_ids=responses.ids,
            prompt_mask=prompts.prompt_mask,
            response_mask=responses.mask,
        )

    @retried_uncaptured
    def scores_of(self, prompts: PromptBatch, responses: Responses, number: int) -> Scores:
        """Has responses scored by the reward.

        Raises:
            TrainingError: If the reward fails; the batch is recorded for the folder ``faults``.
        """
        self.register(prompts, responses, number)
        if PREFIXES in self.reward.columns:
            responses = responses.with_prefixes(self.policy, self.tokenizer, prompts)
        texts, prefixes = responses.texts, responses.prefixes
        try:
            return score(self.reward, prompts, texts, place_of(number), prefixes)
        except TrainingError as error:
            self.faults.record(str(error))
            raise

    def rollout_of(
        self, prompts: PromptBatch, responses: Responses, scores: Scores, number: int
    ) -> tuple[Rollout, bool]:
        """Measures responses, once in half-size passes if the only process runs out of memory.

        Returns:
            The rollout, and whether it is finite on all ranks; if not, it is left out on all.

        Raises:
            TrainingError: If there are more faults than the bound.
        """

        def in_passes_of(size: int) -> Rollout:
            with gathered(self.policy):
                return measure(self.policy, prompts, responses, scores.total, self.estimator, size)

        is_alone = self.ranks.number == 1
        rollout = self.micro_batches.retry_with_half(in_passes_of, place_of(number), is_alone)
        parts = {f"scores.{name}": part for name, part in scores.parts.items()}
        if scores.tokens is not None:
            parts["token_scores"] = scores.tokens
        self.faults.add(**rollout._asdict(), **parts)
        what = first_nonfinite(rollout, scores, self.reward.name, responses.texts)
        is_here = what is not None
        ranks_with_it = self.ranks.sum(scores.total.new_full((), is_here))
        is_finite = ranks_with_it.item() == 0
        if not is_finite:
            what = what or "figures of another process are not finite"
            self.faults.leave_out(what, LOOK_AT_ROLLOUT, is_here=is_here)
        return rollout, is_finite


def place_of(number: int) -> str:
    """Where in a run a rollout is, for messages."""
    return f"rollout {number}"


def no_stop_iteration(step: Callable[[Any, Any, int], None]) -> Callable[[Any, Any, int], None]:
    """Turns a StopIteration in a ``training_step`` into an error that names the rollout."""

    @functools.wraps(step)
    def guarded(module: Any, batch: Any, batch_idx: int) -> None:
        with NoStopIteration(place_of(module.rollouts)):
            step(module, batch, batch_idx)

    return guarded
