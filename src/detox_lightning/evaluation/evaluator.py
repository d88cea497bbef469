"""Lets policy or reference answer prompts, and judges the answers."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import TrainingError
from detox_lightning.evaluation.comparison import BatchComparison, Figures
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan, sample_number
from detox_lightning.models.decoding.draws import GumbelDraws
from detox_lightning.models.decoding.encoded_prompts import EncodedPrompts
from detox_lightning.models.policy import Policy
from detox_lightning.rollout import Responses, evaluate_tokens, generate

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")
Measured = dict[str, Tensor]


class Answered(NamedTuple):
    """Responses of one of the two.

    Attributes:
        responses: ``b`` of them.
        logprobs: ``[b, t]`` of their tokens, of the distribution they were drawn from.
        samples: ``[b]`` which of its prompt's samples each is, from 1; 0: a greedy response.
    """

    responses: Responses
    logprobs: Tensor
    samples: Tensor


class Evaluator:
    """Judges what policy and reference answer, given the same prompts and the same noise."""

    def __init__(
        self,
        plan: EvaluationPlan,
        policy: Policy,
        tokenizer: Any,
        judge: Judge,
        seed: int,
        micro_batch_size: int | None = None,
    ):
        """Puts together what an evaluation needs.

        Args:
            plan: How to ask.
            policy: The policy, on its device.
            tokenizer: The policy's.
            judge: Judges the texts.
            seed: Of the noise.
            micro_batch_size: Responses per forward pass of the KL divergence; None: all of a batch.
        """
        self.plan = plan
        self.policy = policy
        self.tokenizer = tokenizer
        self.judge = judge
        self.seed = seed
        self.micro_batch_size = micro_batch_size

    def validate(self, batch: PromptBatch) -> dict[str, Tensor]:
        """Figures of one sampled response of the policy to each prompt.

        Args:
            batch: ``b`` prompts.

        Returns:
            See :meth:`evaluate`; each ``[b]``.
        """
        return self.evaluate(batch, ["sample 1"] * len(batch.prompts), ("after",))["after"][1]

    def compare(self, batch: PromptBatch) -> BatchComparison:
        """Answers of both to each prompt, in all decodings, judged.

        Args:
            batch: ``b`` prompts.
        """
        decodings = self.plan.decodings
        shape = len(batch.prompts), len(decodings)
        texts: dict[str, list[list[str]]] = {}
        figures: dict[str, Figures] = {}
        found = self.evaluate(batch.repeated(shape[1]), decodings * shape[0], SIDES)
        for side, (flat, values) in found.items():
            texts[side] = [flat[i : i + shape[1]] for i in range(0, len(flat), shape[1])]
            figures[side] = {
                name: column.double().cpu().view(shape).numpy() for name, column in values.items()
            }
        return BatchComparison(
            batch.places.tolist(), batch.prompts, batch.references, texts, figures
        )

    def predict(self, batch: PromptBatch) -> list[dict[str, Any]]:
        """Answers each prompt once: greedily, or with its first sample.

        Args:
            batch: ``b`` prompts.

        Returns:
            ``b`` rows of ``prompt``, ``reference`` (where there is one), ``response``, ``score``
            and ``toxicity``; with the answers before training ``before``, ``after``,
            ``score_before``, ``score_after``, ….
        """
        decodings = self.plan.decodings[:1] * len(batch.prompts)
        parts = torch.arange(len(decodings)).split(self.plan.batch_size)
        sides = SIDES if self.plan.predict_before else SIDES[1:]
        columns: dict[str, list[Any]] = {"prompt": batch.prompts, "reference": batch.references}
        for side in sides:
            texts = [
                text
                for rows in parts
                for text in self.answer(
                    batch.select(rows), decodings[: len(rows)], side
                ).responses.texts
            ]
            found = self.judge.score(batch, texts)
            plain = len(sides) == 1
            columns["response" if plain else side] = texts
            for name, values in found.items():
                columns[name if plain else f"{name}_{side}"] = values.tolist()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{k: v for k, v in row.items() if v or k != "reference"} for row in rows]

    def read(self, batch: PromptBatch, side: Side) -> EncodedPrompts:
        """Lets one of the two read the prompts.

        Args:
            batch: ``b`` prompts.
            side: ``before``: the reference; ``after``: the policy.
        """
        with self.policy.reference_if(side == "before"):
            return self.policy.encode_prompts(batch.prompt_ids, batch.prompt_mask)

    def answer(
        self,
        batch: PromptBatch,
        decodings: list[str],
        side: Side,
        prompts: EncodedPrompts | None = None,
    ) -> Answered:
        """Lets one of the two answer.

        Args:
            batch: ``b`` prompts.
            decodings: How each row is answered.
            side: ``before`` asks the reference, ``after`` the policy.
            prompts: What :meth:`read` gave; None: they are read now.

        Raises:
            TrainingError: If what it says of its own answers is not finite: they are noise.
        """
        limit = self.plan.max_new_tokens or self.policy.sampling.limits[1]
        samples = torch.tensor([sample_number(decoding) for decoding in decodings])
        noise = GumbelDraws(self.seed, batch.places, samples.to(batch.places.device))
        choose = self.policy.sampling.choose(self.policy.eos_token_ids, noise, self.plan.top_p)
        prompts = prompts or self.read(batch, side)
        with self.policy.reference_if(side == "before"):
            responses = generate(self.policy, self.tokenizer, prompts, choose, limit)
        logprobs = torch.stack(noise.logprobs[: responses.ids.shape[1]], dim=1)
        if not logprobs.where(responses.mask, 0).isfinite().all():
            who = "reference" if side == "before" else "policy"
            raise TrainingError(
                f"evaluation: the {who}'s log-probabilities are not finite: its weights are NaN or "
                "so large that it overflows; give a checkpoint from before training has broken it"
            )
        return Answered(responses, logprobs, samples)

    def evaluate(
        self, batch: PromptBatch, decodings: list[str], sides: tuple[Side, ...]
    ) -> dict[Side, tuple[list[str], Measured]]:
        """Lets one or both answer, and finds out all there is to know of the answers.

        Args:
            batch: ``b`` prompts; at most the plan's ``batch_size`` are answered at once.
            decodings: How each row is answered.
            sides: Who is asked.

        Returns:
            Of each side, the ``b`` responses, and their figures, each ``[b]``: the judge's,
            ``length`` (tokens, EOS included), ``has_eos``, and :meth:`reference_figures`: of the
            policy, and of both sides where the reference's perplexity is wanted.
        """
        texts: dict[Side, list[str]] = {side: [] for side in sides}
        parts: dict[Side, list[Measured]] = {side: [] for side in sides}
        for rows in torch.arange(len(decodings)).split(self.plan.batch_size):
            part, how = batch.select(rows), [decodings[row] for row in rows]
            reference = self.read(part, "before")
            for side in sides:
                prompts = reference if side == "before" else None
                answered = self.answer(part, how, side, prompts)
                figures = self.text_figures(part, answered)
                if side == "after" or self.plan.asks_reference:
                    figures |= self.reference_figures(part, answered, reference)
                if side == "before":
                    figures.pop("kl", None)  # from itself
                texts[side] += answered.responses.texts
                parts[side].append({name: x.to(rows.device) for name, x in figures.items()})
        return {side: (texts[side], concat(parts[side])) for side in sides}

    def text_figures(self, batch: PromptBatch, answered: Answered) -> Measured:
        """All that the answers alone tell; see :meth:`evaluate`."""
        responses = answered.responses
        figures = self.judge.examine(batch, responses.texts)
        figures["length"] = responses.mask.sum(dim=1)
        figures["has_eos"] = responses.has_eos(self.policy.eos_token_ids)
        return figures

    @torch.no_grad()
    def reference_figures(
        self, batch: PromptBatch, answered: Answered, reference: EncodedPrompts
    ) -> Measured:
        """What the reference thinks of answers.

        Args:
            batch: ``b`` prompts.
            answered: The answers.
            reference: The prompts as the reference has read them.

        Returns:
            ``kl``, ``[b]``: log-ratio to the reference, summed over each sample's tokens, in nats.
            Its mean estimates the KL divergence of what was sampled from, truncated by ``top_p`` or
            not, from the reference; a greedy response says nothing of it and gets NaN. Where the
            plan wants the reference's perplexity, also ``nll`` (nats) and ``nll_tokens`` (EOS
            included).
        """
        ids, mask = answered.responses.ids, answered.responses.mask
        is_sample = answered.samples.bool().to(ids.device)
        wanted = is_sample | self.plan.asks_reference
        said = torch.full(ids.shape, torch.nan, device=ids.device, dtype=torch.float32)
        if rows := wanted.nonzero()[:, 0].tolist():
            index = torch.tensor(rows, device=ids.device)
            asked = batch.select(index), ids[index], mask[index], self.micro_batch_size
            with self.policy.reference():
                said[index] = evaluate_tokens(self.policy, *asked, reference.select(index)).logprobs
        log_ratio = torch.where(mask, answered.logprobs - said, 0).sum(dim=1)
        found = {"kl": log_ratio.float().where(is_sample, torch.nan)}
        if self.plan.asks_reference:
            found |= {"nll": -said.sum(dim=1), "nll_tokens": mask.sum(dim=1)}
        return found


def concat(parts: list[Measured]) -> Measured:
    """Measured of several batches as those of one, float32."""
    return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}
