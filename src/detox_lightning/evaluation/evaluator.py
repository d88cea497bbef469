"""Lets the policy and its reference respond to a batch of prompts, and judges the responses."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import TrainingError
from detox_lightning.evaluation.best_of import to_log
from detox_lightning.evaluation.comparison import Answers, BatchComparison, Comparison, merge
from detox_lightning.evaluation.entities import with_entities
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan, sample_number
from detox_lightning.evaluation.rewriting import Rewriting
from detox_lightning.evaluation.validation import Validation
from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.draws import GumbelDraws
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.decoding.static_step import retried_uncaptured
from detox_lightning.models.policy import Policy
from detox_lightning.rewards import Reward
from detox_lightning.rewards.interface import PREFIXES
from detox_lightning.rollout import Responses, evaluate_tokens, generate, score

Side = Literal["before", "after"]  # the reference, the policy
SIDES: tuple[Side, Side] = ("before", "after")
Columns = dict[str, Tensor]


class Sampled(NamedTuple):
    """Responses of the policy or of the reference.

    Attributes:
        responses: ``b`` responses.
        logprobs: ``[b, t]`` of their tokens, under the distribution they were drawn from.
        sample_numbers: ``[b]``, from 1; 0 for a greedy response.
    """

    responses: Responses
    logprobs: Tensor
    sample_numbers: Tensor


class Evaluator(nn.Module):
    """Judges responses of the policy and its reference to the same prompts, with the same noise.

    The judging models are submodules, so that they move to the policy's device. The policy itself
    is not.

    Args:
        plan: How to sample responses.
        reward: The reward, whose scores are among the figures.
        sampling: How the policy samples while it is trained.
        seed: Seed of the sampling noise.

    Attributes:
        judge: Measures the texts.
        rewriting: Measures rewritings, if the plan asks for that.
        validation: Collects what validations find.
        comparison: Result of the last test; None before.

    Raises:
        InputError: If the plan doesn't go with ``sampling``, or lacks models that it needs.
    """

    policy: Policy

    def __init__(self, plan: EvaluationPlan, reward: Reward, sampling: Sampling, seed: int):
        super().__init__()
        self.plan, self.sampling, self.seed = plan, sampling, seed
        self.judge = Judge(plan, reward)
        self.rewriting = Rewriting(self.judge)
        self.validation = Validation(self.judge)
        self.tested: list[BatchComparison] = []
        self.comparison: Comparison | None = None
        plan.check(sampling)

    def load(self, policy: Policy, tokenizer: Any, micro_batch_size: int | None = None) -> None:
        """Opens the judging models for a policy, which is on its device.

        Args:
            policy: The policy, on its device.
            tokenizer: The policy's.
            micro_batch_size: Responses per forward pass of the KL divergence; None: a whole batch.
        """
        self.judge.load()
        self.__dict__["policy"] = policy  # past nn.Module, which would make it a submodule
        self.tokenizer, self.micro_batch_size = tokenizer, micro_batch_size

    def validate(self, batch: PromptBatch) -> Columns:
        """Judges one sampled response of the policy per prompt; returns its figures, ``[b]``."""
        asked = batch, ["sample 1"] * len(batch.prompts)
        texts, figures = self.evaluate(*asked, ("after",))["after"]
        figures |= self.validation.similarity(batch, texts, lambda: self._sample_before(*asked))
        self.validation.update(batch, texts, figures)
        return figures

    @retried_uncaptured
    def _sample_before(self, batch: PromptBatch, decodings: list[str]) -> list[str]:
        chunks = self._chunks(batch, decodings)
        answers = [self.respond(*chunk, "before").responses for chunk in chunks]
        return [text for answer in answers for text in answer.texts]

    def test(self, batch: PromptBatch, template: str = "") -> None:
        """Judges responses of the reference and the policy to each prompt of a template."""
        places, found = self.compare(batch)
        found = self.rewriting.measure(found, batch, template)
        self.tested.append(BatchComparison(places, found))

    def finish_test(self, template: str = "") -> dict[str, float]:
        """Sets :attr:`comparison` (all ranks'; prompts of a template); returns it as ``test/…``."""
        merged = self.rewriting.finish(merge(self.tested))
        self.comparison = with_entities(merged, template)
        self.tested.clear()
        return to_log(self.comparison, self.seed)

    def describe(self) -> dict[str, Any]:
        """Returns what a test judges by, and how it samples, for reports."""
        return {
            "reward": self.judge.reward.describe(),
            **self.judge.describe(),
            "seed": self.seed,
            **self.plan.describe(self.sampling),
        }

    def compare(self, batch: PromptBatch) -> BatchComparison:
        """Judges responses of both models to ``b`` prompts, in all decodings of the plan."""
        decodings = self.plan.decodings
        b, d = len(batch.prompts), len(decodings)
        found = self.evaluate(batch.repeated(d), decodings * b, SIDES)
        self.judge.add_similarity(batch.repeated(d).prompts, *found.values())
        before, after = (
            Answers(
                [texts[start : start + d] for start in range(0, b * d, d)],
                {name: x.double().view(b, d).numpy() for name, x in figures.items()},
            )
            for texts, figures in (found[side] for side in SIDES)
        )
        comparison = Comparison(batch.prompts, batch.references, decodings, before, after)
        return BatchComparison(batch.places.tolist(), comparison)

    @retried_uncaptured
    def predict(self, batch: PromptBatch) -> list[dict[str, Any]]:
        """Responds to each of ``b`` prompts as :meth:`answer` does, and judges the responses.

        Returns:
            ``b`` rows of ``prompt``, ``reference`` (where there is one), ``response``, ``score``
            and ``toxicity`` (if it is measured). With the plan's ``predict_before`` they have
            ``before``, ``after``, ``score_before``, ``score_after``, … instead.
        """
        both = self.plan.predict_before
        columns: dict[str, list[Any]] = {"prompt": batch.prompts, "reference": batch.references}
        for side in SIDES if both else SIDES[1:]:
            texts, prefixes = self._answers(batch, side)
            columns[side if both else "response"] = texts
            for name, values in self.judge.score(batch, texts, prefixes).items():
                columns[f"{name}_{side}" if both else name] = values.tolist()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{k: v for k, v in row.items() if v or k != "reference"} for row in rows]

    @retried_uncaptured
    def answer(self, batch: PromptBatch, side: Side) -> list[str]:
        """Responds to each of ``b`` prompts: greedily, with the first sample, or the best of n."""
        return self._answers(batch, side)[0]

    def _answers(self, batch: PromptBatch, side: Side) -> tuple[list[str], list[Any] | None]:
        """Returns the texts of :meth:`answer`, and their prefixes if the reward reads them."""
        decodings = self.plan.predicted
        b, n = len(batch.prompts), len(decodings)
        batch = batch.repeated(n)
        answers = [self.respond(*x, side).responses for x in self._chunks(batch, decodings * b)]
        texts = [text for answer in answers for text in answer.texts]
        prefixes = [x for answer in answers for x in answer.prefixes or ()] or None
        if n == 1:
            return texts, prefixes
        scores = score(self.judge.reward, batch, texts, "evaluation", prefixes).total.view(b, n)
        best = scores.where(~scores.isnan(), -torch.inf).argmax(dim=1).tolist()
        rows = [row * n + place for row, place in enumerate(best)]
        return [texts[row] for row in rows], prefixes and [prefixes[row] for row in rows]

    @retried_uncaptured
    def evaluate(
        self, batch: PromptBatch, decodings: list[str], sides: tuple[Side, ...]
    ) -> dict[Side, tuple[list[str], Columns]]:
        """Lets one or both models respond to ``b`` prompts, and measures the responses.

        Returns:
            For each side the ``b`` responses, and their figures, each ``[b]`` float32 on the CPU:
            those of :meth:`Judge.figures`, ``length`` (tokens, EOS included), ``has_eos``, and
            those of :meth:`reference_figures`, without ``kl`` before training if it must be 0.
        """
        is_exact = self.plan.applied_to(self.sampling).is_exact
        texts: dict[Side, list[str]] = {side: [] for side in sides}
        figures: dict[Side, list[Columns]] = {side: [] for side in sides}
        for chunk, names in self._chunks(batch, decodings):
            reference = self.encode_prompts(chunk, "before")
            for side in sides:
                encoded = reference if side == "before" else None
                sampled = self.respond(chunk, names, side, encoded)
                responses = sampled.responses
                found = self.judge.figures(chunk, responses.texts, responses.prefixes)
                found["length"] = responses.mask.sum(dim=1)
                found["has_eos"] = responses.has_eos(self.policy.eos_token_ids)
                if side == "after" or self.plan.asks_reference or not is_exact:
                    found |= self.reference_figures(chunk, sampled, reference)
                if side == "before" and is_exact:
                    found.pop("kl", None)
                texts[side] += responses.texts
                figures[side].append({name: x.cpu() for name, x in found.items()})
        columns = {
            side: {name: torch.cat([x[name] for x in xs]).float() for name in xs[0]}
            for side, xs in figures.items()
        }
        return {side: (texts[side], columns[side]) for side in sides}

    def _chunks(
        self, batch: PromptBatch, decodings: list[str]
    ) -> Iterator[tuple[PromptBatch, list[str]]]:
        """Splits rows and their decodings into batches of the plan's ``batch_size``."""
        for rows in torch.arange(len(decodings)).split(self.plan.batch_size):
            yield batch.select(rows), [decodings[row] for row in rows]

    def encode_prompts(self, batch: PromptBatch, side: Side) -> EncodedPrompts:
        """Lets the reference (``before``) or the policy (``after``) read ``b`` prompts."""
        with self.policy.reference(side == "before"):
            return self.policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)

    def respond(
        self,
        batch: PromptBatch,
        decodings: list[str],
        side: Side,
        encoded: EncodedPrompts | None = None,
    ) -> Sampled:
        """Lets the reference (``before``) or the policy (``after``) respond to ``b`` prompts.

        ``encoded`` is the result of :meth:`encode_prompts`; without it the prompts are read.

        Raises:
            TrainingError: If the log-probabilities of the responses are not finite.
        """
        limit = self.plan.max_new_tokens or self.policy.sampling.limits[1]
        sample_numbers = torch.tensor([sample_number(decoding) for decoding in decodings])
        noise = GumbelDraws(self.seed, batch.places, sample_numbers.to(batch.places.device))
        choose = self.policy.sampling.choose(self.policy.eos_token_ids, noise, self.plan.top_p)
        encoded = encoded or self.encode_prompts(batch, side)
        with self.policy.reference(side == "before"):
            responses = generate(self.policy, self.tokenizer, encoded, choose, limit)
        logprobs = torch.stack(noise.logprobs[: responses.ids.shape[1]], dim=1)
        if not logprobs.where(responses.mask, 0).isfinite().all():
            model = "reference" if side == "before" else "policy"
            raise TrainingError(
                f"evaluation: the {model}'s log-probabilities are not finite: its weights are NaN "
                "or so large that it overflows; give a checkpoint from before training broke it"
            )
        reward = self.judge.reward
        if PREFIXES in reward.columns and not reward.telescopes:
            responses = responses.with_prefixes(self.policy, self.tokenizer, batch)
        return Sampled(responses, logprobs, sample_numbers)

    @torch.no_grad()
    def reference_figures(
        self, batch: PromptBatch, sampled: Sampled, encoded: EncodedPrompts
    ) -> Columns:
        """Measures responses by the reference, which has ``encoded`` the prompts.

        Returns:
            ``kl`` ``[b]``: the log-ratio of sampling distribution and reference, summed over each
            sample's tokens, in nats. Its mean estimates the KL divergence of what was sampled from
            (truncated by ``top_p`` or not) from the reference. NaN for greedy responses, which
            don't estimate it. Where the plan wants the reference's perplexity, also ``nll`` (nats)
            and ``nll_tokens`` (EOS included).
        """
        ids, mask = sampled.responses.ids, sampled.responses.mask
        is_sample = sampled.sample_numbers.bool().to(ids.device)
        logprobs = torch.full(ids.shape, torch.nan, device=ids.device, dtype=torch.float32)
        rows = (is_sample | self.plan.asks_reference).nonzero()[:, 0]
        if len(rows):
            with self.policy.reference():
                logprobs[rows] = evaluate_tokens(
                    self.policy,
                    batch.select(rows),
                    ids[rows],
                    mask[rows],
                    self.micro_batch_size,
                    encoded.select(rows),
                ).logprobs
        log_ratio = torch.where(mask, sampled.logprobs - logprobs, 0).sum(dim=1)
        figures = {"kl": log_ratio.float().where(is_sample, torch.nan)}
        if self.plan.asks_reference:
            figures |= {"nll": -logprobs.sum(dim=1), "nll_tokens": mask.sum(dim=1)}
        return figures
