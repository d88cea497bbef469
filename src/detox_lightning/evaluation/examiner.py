"""Evaluation of a training run's policy: what ``validate``, ``test`` and ``predict`` do."""

from typing import Any

from torch import Tensor, nn

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.comparison import BatchComparison, Comparison, merge
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.meter import ResponseMeter
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import flat, summarize
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import Reward


class Examiner(nn.Module):
    """Collects the results of an :class:`Evaluator` over batches, and returns figures to log.

    The judging models are submodules, so that they move to the policy's device. The policy itself
    is not.

    Attributes:
        judge: Judges the texts.
        comparison: Result of the last test; None before.
    """

    def __init__(self, plan: EvaluationPlan, reward: Reward, sampling: Sampling, seed: int):
        """Checks the plan; no model is opened.

        Raises:
            InputError: If nothing measures toxicity, if ``max_new_tokens`` is below
                ``min_new_tokens``, or if the reference's perplexity is wanted at another
                temperature than 1.
        """
        super().__init__()
        self.plan = plan
        self.sampling = sampling
        self.seed = seed
        self.judge = Judge(plan, reward)
        self.meter = ResponseMeter()
        self.tested: list[BatchComparison] = []
        self.comparison: Comparison | None = None
        if plan.max_new_tokens is not None and plan.max_new_tokens < sampling.min_new_tokens:
            raise InputError(
                f"model.evaluation.max_new_tokens={plan.max_new_tokens} is below "
                f"model.sampling.min_new_tokens={sampling.min_new_tokens}: raise it"
            )
        if plan.asks_reference and sampling.temperature != 1:
            raise InputError(
                "model.evaluation.perplexity_model=reference: with "
                f"model.sampling.temperature={sampling.temperature} it would be another model's; "
                "name a model's folder or hub id, or give temperature=1"
            )

    def load(self, policy: Policy, tokenizer: Any, micro_batch_size: int | None = None) -> None:
        """Opens the judging models; see :class:`Evaluator`."""
        self.judge.load()
        self.evaluator = Evaluator(
            self.plan, policy, tokenizer, self.judge, self.seed, micro_batch_size
        )

    def validate(self, batch: PromptBatch) -> None:
        """Judges one sampled response of the policy to each prompt."""
        self.meter.update(self.evaluator.validate(batch))

    def finish_validation(self) -> dict[str, Tensor]:
        """Returns ``val/NAME``, the means over all batches and ranks, and starts over."""
        means = {f"val/{name}": mean for name, mean in self.meter.compute().items()}
        self.meter.reset()
        return means

    def test(self, batch: PromptBatch) -> None:
        """Judges responses of the reference and the policy to each prompt."""
        self.tested.append(self.evaluator.compare(batch))

    def finish_test(self) -> dict[str, float]:
        """Sets :attr:`comparison` from all batches and ranks, and returns it as ``test/…``."""
        self.comparison = merge(self.tested)
        self.tested.clear()
        return flat(summarize(self.comparison, self.seed, intervals=False), "test")

    def predict(self, batch: PromptBatch) -> list[dict[str, Any]]:
        """Responds to each prompt once; see :meth:`Evaluator.predict`."""
        return self.evaluator.predict(batch)

    def describe(self) -> dict[str, Any]:
        """Returns what a test judges by, and how it samples, for reports."""
        plan, sampling = self.plan, self.sampling
        return {
            "reward": self.judge.reward.describe(),
            **self.judge.describe(),
            "seed": self.seed,
            "samples": plan.samples,
            "greedy": plan.greedy,
            "max_new_tokens": plan.max_new_tokens or sampling.limits[1],
            "min_new_tokens": sampling.min_new_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p if plan.top_p is None else plan.top_p,
        }
