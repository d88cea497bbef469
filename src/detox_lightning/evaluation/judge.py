"""Measures texts: the reward's score, toxicity, ROUGE, perplexity, similarity."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.batches import PromptBatch
from detox_lightning.evaluation.perplexity import Perplexity
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.sentence_encoder import SentenceEncoder
from detox_lightning.rewards import (
    ClassifierReward,
    PrefixReward,
    Reward,
    SimilarityReward,
    WeightedReward,
)
from detox_lightning.rewards.reward_errors import warn_not_finite
from detox_lightning.rewards.rouge_reward import ROUGE_KINDS, rouge
from detox_lightning.rollout import score

Measured = tuple[list[str], dict[str, Tensor]]  # responses, and their figures by name


class Judge(nn.Module):
    """The reward, the toxicity classifiers and the language models that measure responses."""

    def __init__(self, plan: EvaluationPlan, reward: Reward):
        """Chooses the models; :meth:`load` opens them.

        Toxicity isn't measured if the plan names no classifier and the reward has none with labels,
        similarity (by ``encoder``) if the plan names no encoder and the reward has none.
        """
        super().__init__()
        self.plan, self.reward = plan, reward
        parts = [part for part in reward.modules() if isinstance(part, ClassifierReward)]
        labelled = next((part.classifier for part in parts if part.label is not None), None)
        self.toxicity = _toxicity(plan, "", labelled)
        self.second_toxicity = _toxicity(plan, "second_")
        others = [part.encoder for part in reward.modules() if isinstance(part, SimilarityReward)]
        name = plan.similarity_model
        self.encoder = next((x for x in others if name in (None, x.name)), None)
        if self.encoder is None and name is not None:
            self.encoder = SentenceEncoder(name)
        is_named = plan.perplexity_model is not None and not plan.asks_reference
        self.perplexity = Perplexity(str(plan.perplexity_model)) if is_named else None
        fluency = plan.fluency_model and TextClassifier(plan.fluency_model)
        flag = "model.evaluation.fluent_label"
        self.fluency = Toxicity(fluency, plan.fluent_label, flag) if fluency else None

    @property
    def has_held_out(self) -> bool:
        """Whether the second toxicity classifier is no part of the reward."""
        parts = [part for part in self.reward.modules() if isinstance(part, TextClassifier)]
        second = self.second_toxicity
        names = [_place(part.name) for part in parts]
        return second is not None and _place(second.classifier.name) not in names

    def describe(self) -> dict[str, Any]:
        """Returns the models' names, the toxic labels and what identifies open models; for reports.

        That is their revisions and a hash of their weights.
        """
        plan = self.plan
        names = {
            "toxicity_model": self.toxicity and self.toxicity.classifier.name,
            "toxic_label": self.toxicity and plan.toxic_label,
            "second_toxicity_model": plan.second_toxicity_model,
            "second_toxic_label": plan.second_toxicity_model and plan.second_toxic_label,
            "similarity_model": self.encoder and self.encoder.name,
            "perplexity_model": plan.perplexity_model,
            "perplexity_given_prompt": plan.perplexity_model and plan.perplexity_given_prompt,
            "fluency_model": plan.fluency_model,
            "fluent_label": plan.fluency_model and plan.fluent_label,
        }
        opening = TextClassifier | Perplexity | SentenceEncoder
        judges = [part for part in self.modules() if isinstance(part, opening)]
        opened = {part.name: part.model.identity for part in judges if part.model}
        return {key: value for key, value in {**names, "judges": opened}.items() if value}

    def describe_heads(self) -> str:
        """Returns one line per loaded classifier on the meaning of its outputs."""
        classifiers = [part for part in self.modules() if isinstance(part, TextClassifier)]
        return "\n".join(dict.fromkeys(part.describe_head() for part in classifiers))

    def describe_aim(self) -> str:
        """Returns one line on what is rewarded, and what counts as toxic."""
        toxic = "toxicity isn't measured: model.evaluation.toxicity_model can name a classifier"
        if self.toxicity is not None:
            toxic = f"toxic: {self.toxicity.label!r} by {self.toxicity.classifier.name}"
        return f"Rewarded: {self.reward.describe()} · {toxic}"

    def toxic_aims(self) -> list[str]:
        """Returns the labels that the reward makes likelier although they count as toxic."""
        toxic = {part.label for part in (self.toxicity, self.second_toxicity) if part is not None}
        reward = self.reward
        terms = reward.weighted if isinstance(reward, WeightedReward) else [(1.0, reward)]
        terms = [(x, part.reward if isinstance(part, PrefixReward) else part) for x, part in terms]
        aims = [part.aim(x) for x, part in terms if isinstance(part, ClassifierReward)]
        return [aim for aim in dict.fromkeys(aims) if aim in toxic]

    def check_labels(self) -> None:
        """Raises InputError if a classifier lacks a label, before any weights are opened."""
        for part in self.modules():
            if isinstance(part, ClassifierReward):
                part.output_index()
            elif isinstance(part, Toxicity):
                part.classifier.label_index(part.label, part.flag)

    def load(self) -> None:
        """Opens the models, frozen, once."""
        judges = self.toxicity, self.second_toxicity, self.encoder, self.perplexity, self.fluency
        for part in (self.reward, *judges):
            if part is not None:
                part.load()
        self.requires_grad_(False)

    def score(
        self, batch: PromptBatch, texts: list[str], prefixes: list[list[str]] | None = None
    ) -> dict[str, Tensor]:
        """Returns ``score`` and, if it is measured, ``toxicity`` of ``b`` responses, each ``[b]``.

        ``prefixes`` are those of :class:`Responses`, for a reward of tokens.

        Raises:
            TrainingError: If the reward fails or doesn't give ``b`` scores.
        """
        scores = score(self.reward, batch, texts, "evaluation", prefixes).total
        warn_not_finite(f"the reward {self.reward.name!r}", scores)
        if self.toxicity is None:
            return {"score": scores}
        toxicity = self.toxicity(texts)
        warn_not_finite(f"the classifier {self.toxicity.classifier.name!r}", toxicity)
        return {"score": scores, "toxicity": toxicity}

    def figures(
        self, batch: PromptBatch, texts: list[str], prefixes: list[list[str]] | None = None
    ) -> dict[str, Tensor]:
        """Measures ``b`` responses in all ways that the plan asks for; see :meth:`score`.

        Returns:
            Each ``[b]``: those of :meth:`score`; the kinds of ROUGE, NaN where there is no
            reference; and if the plan wants them ``second_toxicity``, ``nll`` (nats) and
            ``nll_tokens``.
        """
        figures = self.score(batch, texts, prefixes)
        is_blank = torch.tensor([not reference.strip() for reference in batch.references])
        overlap = rouge(texts, batch.all_references).masked_fill(is_blank[:, None], torch.nan)
        figures |= dict(zip(ROUGE_KINDS, overlap.unbind(dim=1), strict=True))
        return figures | self.without_reward(batch.prompts, texts)

    def without_reward(self, prompts: list[str], texts: list[str]) -> dict[str, Tensor]:
        """Measures ``b`` responses by the classifiers and by the language model alone, if any."""
        figures = {name: judge(texts) for name, judge in self.classifiers().items()}
        if self.perplexity is not None:
            if self.plan.perplexity_given_prompt:
                nats = self.perplexity(texts, prompts)
            else:
                nats = self.perplexity([text.strip() for text in texts])
            figures["nll"], figures["nll_tokens"] = nats
        return figures

    def add_similarity(self, prompts: list[str], before: Measured, after: Measured) -> None:
        """Adds cosines to the figures of ``b`` responses before and after training, if measured.

        They are ``similarity_prompt``, to the prompt, and for responses after training
        ``similarity_before``, to the response before it; each ``[b]`` float32 on the CPU.
        """
        if self.encoder is None:
            return
        asked, old, new = (self.encoder(texts) for texts in (prompts, before[0], after[0]))
        before[1]["similarity_prompt"] = (old * asked).sum(dim=1).cpu()
        after[1]["similarity_prompt"] = (new * asked).sum(dim=1).cpu()
        after[1]["similarity_before"] = (new * old).sum(dim=1).cpu()

    def classifiers(self) -> dict[str, Toxicity]:
        """Returns the toxicity classifiers: ``toxicity`` and ``second_toxicity``, if any."""
        both = {"toxicity": self.toxicity, "second_toxicity": self.second_toxicity}
        return {name: judge for name, judge in both.items() if judge is not None}


def _toxicity(
    plan: EvaluationPlan, prefix: str, default: TextClassifier | None = None
) -> Toxicity | None:
    """Builds one of the plan's two toxicity measures, whose fields begin with ``prefix``."""
    model, head, label = (
        getattr(plan, prefix + field)
        for field in ("toxicity_model", "toxicity_head", "toxic_label")
    )
    flag = f"model.evaluation.{prefix}"
    classifier = default
    if model:
        classifier = TextClassifier(model, head=head, flag=f"{flag}toxicity_head")
    return Toxicity(classifier, label, f"{flag}toxic_label") if classifier else None


def _place(name: str) -> str:
    """Where a model is, however its folder is written; of the hub its name."""
    return str(Path(name).resolve()) if Path(name).exists() else name
