"""Measures of rewriting: is a text no longer toxic, does it mean the same, is it fluent?

They are those of ParaDetox (https://aclanthology.org/2022.acl-long.469), each of a single text:

- ``sta``: 1 if the toxicity is below .5, otherwise 0.
- ``sim``: the cosine of a rewriting and its source, as a sentence encoder reads them. The source is
  the prompt without its template.
- ``fl``: 1 if the perplexity isn't above the 95th percentile of that of people's rewritings (the
  first of each source), or if a classifier gives its fluent label .5 or more; otherwise 0. An empty
  text has no perplexity, and is not fluent.
- ``j``: ``sta`` × ``sim`` × ``fl``, where a ``sim`` below 0 counts as 0.
- ``chrf``: see :func:`chrf`; the first of people's rewritings is compared with the others.

The same is measured of baselines: ``copy``, the source as it is; ``delete``, the source without
listed words; and ``people``, the first of people's rewritings, the ceiling.
"""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detox_lightning.batches import PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.chrf import chrf
from detox_lightning.evaluation.comparison import Answers, Comparison, Figures
from detox_lightning.evaluation.entities import without_template
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import TOXIC_FROM
from detox_lightning.evaluation.statistics import Array, as_estimate, percentiles, resample

MEASURES = ("sta", "sim", "fl", "j", "chrf")
COPY, DELETE, PEOPLE = "copy", "delete", "people"
FLUENT_SHARE = 0.95  # of people's rewritings are fluent, by their perplexity
FLUENT_FROM = 0.5  # a text is fluent from this probability on
FLAG = "model.evaluation.rewriting"


class Rewriting:
    """Measures responses as rewritings, and the baselines beside them, where a plan asks for it."""

    def __init__(self, judge: Judge):
        """Takes the models of a judge.

        Raises:
            InputError: If there is no model for a measure that the plan asks for.
        """
        plan = judge.plan
        self.judge, self.asked = judge, plan.rewriting
        self.words: Sequence[str] = ()
        has_language_model = plan.perplexity_model is not None and not plan.asks_reference
        models = {
            "sta": (judge.toxicity, "a toxicity classifier; give toxicity_model"),
            "sim": (judge.encoder, "a sentence encoder; give similarity_model"),
            "fl": (
                judge.fluency or has_language_model or None,
                "a language model that wasn't trained here; give perplexity_model a folder or hub "
                "id, or a classifier as fluency_model",
            ),
        }
        for name, (model, remedy) in models.items():
            if model is None and {name, "j"} & {*self.asked}:
                one = name if name in self.asked else "j"
                raise InputError(f"{FLAG}: {one} needs {remedy}")

    def prepare(self, references: Iterable[str] | None = None) -> None:
        """Reads the list of words, and looks at the references of the test rows if they are known.

        Raises:
            InputError: If there is no such file, or no word in it, or if references are needed and
                there are none.
        """
        if not self.asked:
            return
        by_perplexity = self.judge.fluency is None and {"fl", "j"} & {*self.asked}
        if references is not None and ("chrf" in self.asked or by_perplexity):
            one = "chrf" if "chrf" in self.asked else "fl"
            if not any(map(str.strip, references)):
                raise InputError(
                    f"{FLAG}: {one} compares with people's rewritings, and no row of the test data "
                    "has one; name their column, such as --data.reference_column, or leave it out"
                )
        if (file := self.judge.plan.delete_words) is not None:
            self.words = read_words(file)

    def measure(self, comparison: Comparison, batch: PromptBatch, template: str) -> Comparison:
        """Adds baselines, and what can be measured of each text alone, to a batch's comparison."""
        if not self.asked:
            return comparison
        sources = without_template(comparison.prompts, template)
        people = [_distinct(texts) for texts in batch.all_references]
        meant = self.judge.encoder(sources) if self.judge.encoder else None
        texts = {COPY: sources}
        if self.words:
            texts[DELETE] = [without_words(source, self.words) for source in sources]
        texts[PEOPLE] = [found[0] if found else "" for found in people]
        baselines = {}
        for name, column in texts.items():
            judged = self.judge.without_reward(comparison.prompts, column)
            rows = {key: x.double().cpu().numpy()[:, None] for key, x in judged.items()}
            references = people if name != PEOPLE else [found[1:] for found in people]
            alone = self._alone(Answers([[text] for text in column], rows), meant, references)
            absent = np.array([[name == PEOPLE and not found] for found in people])
            figures = {key: np.where(absent, np.nan, x) for key, x in alone.figures.items()}
            baselines[name] = alone._replace(figures=figures)
        before, after = (
            self._alone(side, meant, people) for side in (comparison.before, comparison.after)
        )
        return comparison._replace(before=before, after=after, baselines=baselines)

    def _alone(self, answers: Answers, meant: Any, references: list[list[str]]) -> Answers:
        """Adds measures of each text; ``meant`` ``[n, d]`` are the sources' vectors, or None."""
        figures, shape = dict(answers.figures), (len(answers.texts), -1)
        texts = [text for row in answers.texts for text in row]
        if "toxicity" in figures:
            figures["sta"] = (figures["toxicity"] < TOXIC_FROM).astype(float)
        if self.judge.encoder is not None:
            vectors = self.judge.encoder(texts).view(*shape, meant.shape[1])
            figures["sim"] = (vectors * meant[:, None]).sum(dim=2).double().cpu().numpy()
        if self.judge.fluency is not None:
            pairs = zip(self.judge.fluency(texts).tolist(), texts, strict=True)
            is_fluent = [p >= FLUENT_FROM and bool(text.strip()) for p, text in pairs]
            figures["fl"] = np.array(is_fluent, float).reshape(shape)
        if "chrf" in self.asked:
            rows = zip(answers.texts, references, strict=True)
            figures["chrf"] = np.array([[chrf(x, known) for x in row] for row, known in rows])
        return answers._replace(figures=figures)

    def finish(self, comparison: Comparison) -> Comparison:
        """Adds what takes all prompts: ``fl`` by perplexity, and with it ``j``."""
        if not self.asked:
            return comparison
        bound = fluent_up_to(comparison)
        unasked = {*MEASURES} - {*self.asked}

        def finished(answers: Answers) -> Answers:
            figures = dict(answers.figures)
            if "nll" in figures:
                figures.setdefault("fl", _is_fluent(figures, bound))
            if "j" in self.asked:
                figures["j"] = figures["sta"] * np.maximum(figures["sim"], 0) * figures["fl"]
            return answers._replace(
                figures={name: x for name, x in figures.items() if name not in unasked}
            )

        baselines = {name: finished(x) for name, x in comparison.baselines.items()}
        before, after = finished(comparison.before), finished(comparison.after)
        return comparison._replace(before=before, after=after, baselines=baselines)


def _distinct(references: Sequence[str]) -> list[str]:
    """Returns what people have made of a text, without blank ones; maybe nothing."""
    return list(dict.fromkeys(text.strip() for text in references if text.strip()))


def fluent_up_to(comparison: Comparison) -> float:
    """Returns the 95th percentile of the perplexity of people's rewritings; NaN if unknown."""
    figures = comparison.baselines[PEOPLE].figures
    if "nll" not in figures:
        return math.nan
    with np.errstate(invalid="ignore"):
        perplexity = np.exp(figures["nll"] / figures["nll_tokens"])
    known = perplexity[~np.isnan(perplexity)]
    return float(np.quantile(known, FLUENT_SHARE)) if known.size else math.nan


def _is_fluent(figures: Figures, bound: float) -> Array:
    nats, tokens = figures["nll"], figures["nll_tokens"]
    is_fluent = (tokens > 0) & (nats <= np.log(bound) * tokens)
    return np.where(np.isnan(nats + bound), np.nan, is_fluent.astype(float))


def summarize_baselines(comparison: Comparison, seed: int) -> dict[str, Any] | None:
    """Summarizes the baselines; the rewritings themselves are among the figures of a summary.

    Returns:
        ``baselines``: by name, each measure with its interval, as in :func:`summarize`; and
        ``fluent_up_to``: :func:`fluent_up_to`. None if no measure is asked for.
    """
    if not comparison.baselines:
        return None
    found: dict[str, Any] = {}
    for name, answers in comparison.baselines.items():
        rows = {key: answers.figures[key][:, 0] for key in MEASURES if key in answers.figures}
        rows = {key: x for key, x in rows.items() if not np.isnan(x).all()}
        if rows:
            table = np.stack([*rows.values()])
            found[name] = dict(zip(rows, _estimates(table, seed), strict=True))
    bound = fluent_up_to(comparison)
    return {"baselines": found, "fluent_up_to": None if math.isnan(bound) else bound}


def _estimates(table: Array, seed: int) -> list[Any]:
    """Means over the last axis, with intervals."""

    def means(table: Array, axis: int = -1) -> Array:
        return np.asarray(np.nanmean(table, axis=axis))

    low = high = np.full(len(table), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those about means of nothing
        if table.shape[1] > 1:
            low, high = percentiles(resample([table], means, seed))
    return [as_estimate(*ends) for ends in zip(means(table), low, high, strict=True)]


def without_words(text: str, words: Sequence[str]) -> str:
    """Deletes words wherever they stand alone in a text, in whatever case."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
    return " ".join(re.sub(pattern, " ", text, flags=re.IGNORECASE).split())


def read_words(file: str) -> list[str]:
    """Reads a list of words, one a line; InputError if it can't be read or has none."""
    flag = f"model.evaluation.delete_words={file}"
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = "isn't text in UTF-8" if isinstance(error, UnicodeError) else f"{error.strerror}"
        raise InputError(f"{flag}: {why}; name a file of words, one a line") from error
    if not (words := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{flag}: it has no word; give one a line, or leave the option out")
    return words
