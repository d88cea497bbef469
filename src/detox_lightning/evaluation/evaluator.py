"""Lets policy or reference answer prompts, and judges the answers."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from detox_lightning.batch import PromptBatch
from detox_lightning.evaluation.comparison import Figures, Piece
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan, sample_number
from detox_lightning.models.noise import PromptNoise
from detox_lightning.models.policy import Policy
from detox_lightning.rollout import Responses, respond

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")


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
            See :meth:`examine`; each ``[b]``.
        """
        return self.examine(batch, ["sample 1"] * len(batch.prompts), "after")[1]

    def compare(self, batch: PromptBatch) -> Piece:
        """Answers of both to each prompt, in all decodings, judged.

        Args:
            batch: ``b`` prompts.
        """
        decodings = self.plan.decodings
        shape = len(batch.prompts), len(decodings)
        texts: dict[str, list[list[str]]] = {}
        figures: dict[str, Figures] = {}
        for side in SIDES:
            flat, found = self.examine(batch.repeated(shape[1]), decodings * shape[0], side)
            texts[side] = [flat[i : i + shape[1]] for i in range(0, len(flat), shape[1])]
            figures[side] = {
                name: values.double().cpu().view(shape).numpy() for name, values in found.items()
            }
        return Piece(batch.places.tolist(), batch.prompts, batch.references, texts, figures)

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

    def answer(self, batch: PromptBatch, decodings: list[str], side: Side) -> Answered:
        """Lets one of the two answer.

        Args:
            batch: ``b`` prompts.
            decodings: How each row is answered.
            side: ``before`` asks the reference, ``after`` the policy.
        """
        limit = self.plan.max_new_tokens or self.policy.sampling.limits[1]
        samples = torch.tensor([sample_number(decoding) for decoding in decodings])
        noise = PromptNoise(self.seed, batch.places, samples.to(batch.places.device))
        options = self.policy.sampling.given_noise(noise, limit, self.plan.top_p)
        with self.policy.reference_if(side == "before"):
            responses = respond(self.policy, self.tokenizer, batch, **options)
        width = responses.ids.shape[1]
        return Answered(responses, torch.stack(noise.logprobs[:width], dim=1), samples)

    def examine(
        self, batch: PromptBatch, decodings: list[str], side: Side
    ) -> tuple[list[str], dict[str, Tensor]]:
        """Lets one of the two answer, and finds out all there is to know of its answers.

        Args:
            batch: ``b`` prompts; at most the plan's ``batch_size`` are answered at once.
            decodings: How each row is answered.
            side: ``before`` or ``after``.

        Returns:
            The ``b`` responses, and their figures, each ``[b]``: the judge's, ``length`` (tokens,
            EOS included), ``has_eos`` and, of the policy, ``kl`` (nats; NaN where the response is
            no sample).
        """
        texts: list[str] = []
        parts: list[dict[str, Tensor]] = []
        for rows in torch.arange(len(decodings)).split(self.plan.batch_size):
            part = batch.select(rows)
            answered = self.answer(part, [decodings[row] for row in rows], side)
            responses = answered.responses
            figures = self.judge.examine(part, responses.texts)
            figures["length"] = responses.mask.sum(dim=1)
            figures["has_eos"] = responses.has_eos(self.policy.eos_token_id)
            if side == "after":
                figures["kl"] = self.divergence(part, answered)
            texts += responses.texts
            parts.append({name: values.to(rows.device) for name, values in figures.items()})
        return texts, {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}

    @torch.no_grad()
    def divergence(self, batch: PromptBatch, answered: Answered) -> Tensor:
        """``[b]`` log-ratio of policy to reference, summed over each sample's tokens, in nats.

        Its mean estimates the KL divergence of what was sampled from, truncated by ``top_p`` or
        not, from the reference. A greedy response says nothing of it and gets NaN.

        Args:
            batch: ``b`` prompts.
            answered: The policy's answers.
        """
        ids, mask, _ = answered.responses
        kl = torch.full((len(ids),), torch.nan, device=ids.device)
        sampled = answered.samples.nonzero()[:, 0].to(ids.device)
        for rows in sampled.split(self.micro_batch_size or len(ids)) if len(sampled) else ():
            part = batch.select(rows)
            with self.policy.reference():
                reference = self.policy(part.prompt_ids, part.prompt_mask, ids[rows])
            log_ratio = answered.logprobs[rows] - reference.logprobs
            kl[rows] = torch.where(mask[rows], log_ratio, 0).sum(dim=1)
        return kl
