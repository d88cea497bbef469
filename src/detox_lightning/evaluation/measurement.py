"""Toxicity as the ``evaluate`` library measures it.

This is also a script for ``evaluate.load(PATH, MODEL, module_type="measurement")``. Since
``evaluate`` is slow to import, nothing else in the package imports this file.
"""

import re
from pathlib import Path
from typing import Any

import evaluate
import torch

from detox_lightning.errors import InputError
from detox_lightning.evaluation.toxicity import Toxicity, check_threshold
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import Head

DEFAULT_MODEL = "facebook/roberta-hate-speech-dynabench-r4-target"
AGGREGATIONS = ("all", "maximum", "ratio")


class ToxicityMeasurement(evaluate.Measurement):  # type: ignore[misc]
    """The hub's ``toxicity`` measurement, in batches, with any classifier, and strict on labels."""

    def __init__(self, config_name: str | None = None, head: Head | None = None, **options: Any):
        """Stores the classifier's name; the first texts open it.

        Args:
            config_name: The classifier: hub id, local folder or ``demo:NAME``; None (or
                ``default``) is the hub's own.
            head: Meaning of the classifier's outputs, ``softmax``, ``sigmoid`` or ``value``; None:
                according to its config.
            options: For ``evaluate.Measurement``: ``keep_in_memory``, ``cache_dir``, …
        """
        model = DEFAULT_MODEL if config_name in (None, "default") else str(config_name)
        self.classifier = TextClassifier(model, head=head)
        # evaluate names a folder in its cache by this; a path would lead out of the cache
        super().__init__(re.sub(r"\W+", "-", Path(model).name), **options)

    def _info(self) -> Any:
        from datasets import Features, Value

        return evaluate.MeasurementInfo(
            module_type="measurement",
            description="Toxicity of texts by a classifier.",
            citation="",
            inputs_description=self._compute.__doc__,
            features=Features({"predictions": Value("string")}),
        )

    def _download_and_prepare(self, dl_manager: Any) -> None:
        self.classifier.load()

    def _compute(
        self,
        predictions: list[str],
        aggregation: str | None = None,
        toxic_label: str = "hate",
        threshold: float = 0.5,
    ) -> dict[str, Any]:
        """Measures the toxicity of texts.

        Args:
            predictions: The texts.
            aggregation: None (or ``all``): each text's toxicity; ``maximum``: the highest;
                ``ratio``: the share of toxic texts.
            toxic_label: Name of the classifier's toxic label.
            threshold: A text is toxic from this probability on.

        Returns:
            ``toxicity``: a list of probabilities, in the order of the texts; or ``max_toxicity``;
            or ``toxicity_ratio``. The latter two are NaN where there are no texts.

        Raises:
            InputError: If there is no such classifier, label or aggregation, or the threshold is
                no probability.
        """
        if aggregation not in (None, *AGGREGATIONS):
            raise InputError(f"aggregation={aggregation!r}: choose from {', '.join(AGGREGATIONS)}")
        check_threshold(threshold)
        measure = Toxicity(self.classifier, toxic_label)
        measure.load()
        toxicity = measure(list(predictions))
        if aggregation == "maximum":
            return {"max_toxicity": toxicity.max().item() if len(toxicity) else torch.nan}
        if aggregation == "ratio":
            return {"toxicity_ratio": (toxicity >= threshold).float().mean().item()}
        return {"toxicity": toxicity.tolist()}
