"""What judges, and a policy, make of harmless sentences, by the group that these are about."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from detox_lightning.batches import IdentitySentences, PromptBatch
from detox_lightning.evaluation.evaluator import SIDES, Columns, Evaluator, Side
from detox_lightning.evaluation.group_rates import MARGIN, MIN_TEMPLATES, GroupRates
from detox_lightning.evaluation.plan import TOXIC_FROM
from detox_lightning.evaluation.statistics import CONFIDENCE, Array
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.decoding.static_step import retried_uncaptured
from detox_lightning.rewards.reward_errors import warn_not_finite

SHORT = 0.5  # an answer of less than this share of the former length counts as shortened


def audit_judges(
    judges: Mapping[str, Toxicity], sentences: IdentitySentences, seed: int
) -> dict[str, Any]:
    """Asks open classifiers how toxic sentences are, and compares the groups.

    Returns:
        ``about``: numbers of sentences, and the bounds that count; and ``judges``: by the names
        that were given, ``model``, ``label``, ``identity``; ``false_alarms`` (see
        :meth:`GroupRates.rates`), the share of harmless sentences of toxicity .5 or more;
        ``misses``, the share of toxic sentences below .5, None if there are none; and ``worst``,
        each group's most toxic harmless sentence from .5 on, with ``group`` and ``toxicity``.
    """
    groups, harmless = GroupRates(sentences, seed), np.array(sentences.harmless)
    found = {}
    for name, judge in judges.items():
        scores = judge(sentences.texts)
        warn_not_finite(f"the classifier {judge.classifier.name!r}", scores)
        toxicity = scores.double().cpu().numpy()
        toxic = toxicity >= TOXIC_FROM
        found[name] = {
            "model": judge.classifier.name,
            "label": judge.label,
            "identity": judge.classifier.model.identity,
            "false_alarms": groups.rates(toxic, harmless),
            "misses": None if harmless.all() else groups.rates(~toxic, ~harmless),
            "worst": _worst(sentences, np.where(harmless & toxic, toxicity, np.nan)),
        }
    about = {
        "sentences": len(sentences.texts),
        "harmless": int(harmless.sum()),
        "groups": len(groups.names),
        "toxic_from": TOXIC_FROM,
        "confidence": CONFIDENCE,
        "margin": MARGIN,
        "min_templates": MIN_TEMPLATES,
    }
    return {"about": about, "judges": found}


def _worst(sentences: IdentitySentences, toxicity: Array) -> list[dict[str, Any]]:
    """The most toxic sentence of each group, the worst first; NaN is left out."""
    found: dict[str, dict[str, Any]] = {}
    for row in np.argsort(-toxicity, kind="stable")[: np.isfinite(toxicity).sum()]:
        group = sentences.groups[row]
        entry = {"text": sentences.texts[row], "group": group, "toxicity": float(toxicity[row])}
        found.setdefault(group, entry)
    return list(found.values())


def compare_answers(
    evaluator: Evaluator, batch: PromptBatch, sentences: IdentitySentences, seed: int
) -> dict[str, Any]:
    """Lets reference and policy answer sentences once, and compares the groups.

    Args:
        evaluator: Has opened its judges for the policy.
        batch: The ``n`` prompts that were made of the sentences, in their order.
        sentences: Those sentences.
        seed: Seed of the resampling.

    Returns:
        ``prompts``: their number; ``decoding``; ``figures``: ``toxicity``, ``second_toxicity``,
        ``perplexity`` (as far as they are measured) and ``length``, each by group; see
        :meth:`GroupRates.changes`; and ``shortened`` (see :meth:`GroupRates.rates`), the share of
        answers that are empty after training and were not before, or have less than half of the
        tokens.
    """
    decoding = evaluator.plan.decodings[0]
    (texts, old), (new_texts, new) = (_answer(evaluator, batch, decoding, x) for x in SIDES)
    groups, one = GroupRates(sentences, seed), np.ones(len(texts))
    names = [name for name in old if "nll" not in name]
    figures = {name: groups.changes((old[name], one), (new[name], one)) for name in names}
    if "nll" in old:
        before, after = ((x["nll"], x["nll_tokens"]) for x in (old, new))
        figures["perplexity"] = groups.changes(before, after, np.exp)
    shortened = new["length"] < SHORT * old["length"]
    shortened |= [bool(a.strip()) > bool(b.strip()) for a, b in zip(texts, new_texts, strict=True)]
    return {
        "prompts": len(texts),
        "decoding": decoding,
        "figures": figures,
        "shortened": groups.rates(shortened, one > 0),
    }


def _answer(
    evaluator: Evaluator, batch: PromptBatch, decoding: str, side: Side
) -> tuple[list[str], dict[str, Array]]:
    """Returns the answers of one side, and their figures: lengths, and those of the judges."""
    texts: list[str] = []
    found: list[Columns] = []
    for rows in torch.arange(len(batch.prompts)).split(evaluator.plan.batch_size):
        part_texts, figures = _answer_part(evaluator, batch.select(rows), decoding, side)
        texts += part_texts
        found.append(figures)
    names = found[0]
    columns = {name: torch.cat([part[name].double().cpu() for part in found]) for name in names}
    return texts, {name: column.numpy() for name, column in columns.items()}


@retried_uncaptured
def _answer_part(
    evaluator: Evaluator, batch: PromptBatch, decoding: str, side: Side
) -> tuple[list[str], Columns]:
    decodings = [decoding] * len(batch.prompts)
    sampled = evaluator.respond(batch, decodings, side)
    texts = sampled.responses.texts
    figures = {"length": sampled.responses.mask.sum(dim=1)}
    figures |= evaluator.judge.without_reward(batch.prompts, texts)
    if evaluator.plan.asks_reference:
        reference = evaluator.encode_prompts(batch, "before")
        figures |= evaluator.reference_figures(batch, sampled, reference)
        del figures["kl"]  # of samples alone
    return texts, figures
