"""What is known of a text: the reward's score, toxicity, ROUGE, perplexity."""

from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.perplexity import Perplexity
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards import ClassifierReward, Reward
from detox_lightning.rewards.asking import asked, check_scores, warn_not_finite
from detox_lightning.rewards.rouge_reward import KINDS, rouge


class Judge(nn.Module):
    """Everything that judges responses by their text."""

    def __init__(self, plan: EvaluationPlan, reward: Reward):
        """Finds out who is asked; :meth:`load` opens them.

        Args:
            plan: Names the classifiers and the language model.
            reward: The reward that is trained for; its first classifier with labels measures
                toxicity if the plan names none.

        Raises:
            InputError: If no classifier is named and the reward has none.
        """
        super().__init__()
        self.plan = plan
        classifier = toxicity_classifier_of(reward)
        if plan.toxicity_model:
            flag = "model.evaluation.toxicity_head"
            classifier = TextClassifier(plan.toxicity_model, head=plan.toxicity_head, flag=flag)
        if classifier is None:
            raise InputError(
                "model.evaluation.toxicity_model: the reward has no classifier with labels; "
                "name one that measures toxicity"
            )
        self.reward = reward
        self.toxicity = Toxicity(classifier, plan.toxic_label, "model.evaluation.toxic_label")
        self.second_toxicity = self.perplexity = None
        if plan.second_toxicity_model:
            flag = "model.evaluation.second_toxicity_head"
            second = TextClassifier(
                plan.second_toxicity_model, head=plan.second_toxicity_head, flag=flag
            )
            flag = "model.evaluation.second_toxic_label"
            self.second_toxicity = Toxicity(second, plan.second_toxic_label, flag)
        if plan.perplexity_model and not plan.asks_reference:
            self.perplexity = Perplexity(plan.perplexity_model)

    def describe(self) -> dict[str, Any]:
        """Names of the models that are asked and of the labels that count as toxic; and how."""
        plan = self.plan
        names = {
            "toxicity_model": self.toxicity.classifier.name,
            "toxic_label": plan.toxic_label,
            "second_toxicity_model": plan.second_toxicity_model,
            "second_toxic_label": plan.second_toxicity_model and plan.second_toxic_label,
            "perplexity_model": plan.perplexity_model,
            "perplexity_given_prompt": plan.perplexity_model and plan.perplexity_given_prompt,
        }
        return {what: name for what, name in names.items() if name}

    def heads(self) -> str:
        """What the outputs of each classifier are, a line each; they are loaded."""
        asked = [part for part in self.modules() if isinstance(part, TextClassifier)]
        return "\n".join(dict.fromkeys(part.describe_head() for part in asked))

    def load(self) -> None:
        """Opens the models, once; nothing in them learns.

        Raises:
            InputError: If there is no such model, or a classifier lacks the label.
        """
        for part in (self.reward, self.toxicity, self.second_toxicity, self.perplexity):
            if part is not None:
                part.load()
        self.requires_grad_(False)

    def score(self, batch: PromptBatch, texts: list[str]) -> dict[str, Tensor]:
        """What the reward and the classifier say.

        Args:
            batch: ``b`` prompts.
            texts: Their responses.

        Returns:
            ``score`` and ``toxicity``, each ``[b]``.

        Raises:
            TrainingError: If the reward fails or doesn't give ``b`` scores.
        """
        given = [*batch.prompts], [*texts], [*batch.references]
        scores = asked(self.reward, "evaluation", lambda: self.reward(*given))
        check_scores(self.reward.name, scores, len(texts), "evaluation")
        scores = scores.clone()  # which the reward may fill anew the next time
        toxicity = self.toxicity(texts)
        warn_not_finite(f"the reward {self.reward.name!r}", scores)
        warn_not_finite(f"the classifier {self.toxicity.classifier.name!r}", toxicity)
        return {"score": scores, "toxicity": toxicity}

    def examine(self, batch: PromptBatch, texts: list[str]) -> dict[str, Tensor]:
        """All that the plan asks for.

        Args:
            batch: ``b`` prompts.
            texts: Their responses.

        Returns:
            Each ``[b]``: those of :meth:`score`, the ROUGE kinds (NaN where there is no reference),
            and where they are asked for ``second_toxicity``, ``nll`` (nats) and ``nll_tokens``.
        """
        figures = self.score(batch, texts)
        unknown = torch.tensor([not reference.strip() for reference in batch.references])
        shared = rouge(texts, batch.references).masked_fill(unknown[:, None], torch.nan)
        figures |= dict(zip(KINDS, shared.unbind(dim=1), strict=True))
        if self.second_toxicity is not None:
            figures["second_toxicity"] = self.second_toxicity(texts)
        if self.perplexity is not None:
            given_prompt = self.plan.perplexity_given_prompt
            given = (texts, batch.prompts) if given_prompt else ([x.strip() for x in texts],)
            figures["nll"], figures["nll_tokens"] = self.perplexity(*given)
        return figures


def toxicity_classifier_of(reward: Reward) -> TextClassifier | None:
    """The first classifier with labels that a reward asks, if it asks one.

    Args:
        reward: The reward, which may be made of several.
    """
    asked = (part for part in reward.modules() if isinstance(part, ClassifierReward))
    return next((part.classifier for part in asked if part.label is not None), None)
