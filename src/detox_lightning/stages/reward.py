"""The reward stage: teaches a sequence classifier to tell hate from the rest, or to score it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from detox_lightning.batches import LabeledBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.agreement import AGREEMENT_FIGURES, Agreement, ScoreMeter
from detox_lightning.models.batching import classify, count_positions, padding_id
from detox_lightning.models.classifier_heads import labels_of
from detox_lightning.models.loading import Weights, load_model, load_tokenizer
from detox_lightning.models.source import ModelSource
from detox_lightning.protocols import data_of
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.optimization import CONSTANT, Schedule
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.stage_module import AutomaticStage


class RewardModule(AutomaticStage):
    """Fine-tunes a sequence classifier on labelled text, or on text with scores from 0 to 1.

    Logs ``train/loss``; under ``val/`` and ``test/`` loss, accuracy, F1 and AUROC. With two labels,
    F1 and AUROC are those of the second; with more, they are means over the labels. Of scores it
    logs loss, Spearman's correlation, AUROC (of texts from .5 on), Brier score and calibration
    error, means over the labels. The members are those of
    :class:`~detox_lightning.protocols.Stage`.
    """

    stage_name = "reward"
    auto_class = "AutoModelForSequenceClassification"
    needs = ()
    family = None
    labels: list[str]

    def __init__(
        self,
        model: str,
        labels: Sequence[str] = ("nothate", "hate"),
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-5),
        schedule: Schedule = CONSTANT,
        weights: Weights = Weights(),  # noqa: B008
        max_faults: NonNegativeInt = 10,
        target: Literal["classes", "scores"] = "classes",
    ):
        """Stores names and settings; the weights load when a run begins.

        Args:
            model: Hub id or folder of an encoder, which gets a fresh head, or of a classifier with
                exactly these labels.
            labels: Names of the classes in the order of the classifier's outputs; the data's rows
                are labelled by the same names.
            optimizer: Optimizer and its learning rate.
            schedule: Warm-up and decay of the learning rate, in optimizer steps.
            weights: How the weights are opened.
            max_faults: Steps of the whole run that may be left out because their gradient is not
                finite; their batches are written into the folder ``faults`` of the run. One more
                ends the run.
            target: What a text's label is. classes: one of the labels, which exclude one another;
                scores: a number from 0 to 1 for each of the labels, such as the share of people
                who find the text toxic. The classifier then gives each label a probability of its
                own (sigmoid), and learns it by binary cross-entropy.

        Raises:
            InputError: If there are fewer than two classes, no label, or two of the same name, or
                the weights are to be quantized or bfloat16, as all of them are trained.
        """
        super().__init__(model, weights, optimizer, schedule, max_faults)
        self.save_hyperparameters()
        self.model, self.mean_loss = None, MeanMetric()
        self.learns_scores, self.labels = target == "scores", list(labels)
        if len(set(labels)) < max(len(labels), 1 if self.learns_scores else 2):
            one = "one" if self.learns_scores else "two"
            raise InputError(f"labels={self.labels}: give {one} or more different names.")
        self.weights.check_trainable(is_classifier=True)
        self.metrics: Any = (
            ScoreMeter(self.labels) if self.learns_scores else classification_metrics(len(labels))
        )

    @property
    def source(self) -> ModelSource:
        """The model, which is no adapter."""
        return ModelSource(self.model_name, None, None, self.weights.revision, None, self.weights)

    def setup(self, stage: str) -> None:
        """Checks the trainer's options before any model is opened."""
        figures = AGREEMENT_FIGURES if self.learns_scores else tuple(self.metrics)
        check_conditions(self, stage, ("loss", *figures))

    @property
    def agreement(self) -> Mapping[str, Agreement]:
        """By label, how well the scores that were measured last agree with the data's."""
        found: Mapping[str, Agreement] = self.metrics.found if self.learns_scores else {}
        return found

    def configure_model(self) -> None:
        """Loads the weights and the tokenizer, once; checks the classes and the length of texts."""
        if self.model is not None:
            return
        choose_kernels()
        _check_labels(self.source, self.labels)
        self.tokenizer = load_tokenizer(
            self.model_name, padding_side="right", **self.weights.file_options
        )
        model = load_model(
            self.auto_class,
            self.model_name,
            id2label=dict(enumerate(self.labels)),
            label2id={label: index for index, label in enumerate(self.labels)},
            problem_type=f"{'multi' if self.learns_scores else 'single'}_label_classification",
            fresh_head=True,
            **self.weights.options,
        )
        data, positions = data_of(self._trainer), count_positions(model)
        if data is not None and positions is not None and data.max_prompt_tokens > positions:
            raise InputError(
                f"--data.max_tokens={data.max_prompt_tokens}: {self.model_name!r} reads "
                f"{positions} tokens at most; lower it to that"
            )
        if padding_id(model) is None:
            # a decoder's head reads the last token before the padding, which the config names
            pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
            model.config.get_text_config().pad_token_id = eos if pad is None else pad
        self.train_model(model)
        # no buffer changes, and validation steps must not wait for other ranks
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the logits ``[b, classes]``, float32, of texts ``[b, s]``."""
        return classify(self.model, input_ids, attention_mask.bool())

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy of classes ``[b]``, or of scores ``[b, labels]``; a mean."""
        if self.learns_scores:
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns the probabilities of the labels, ``[b, labels]``."""
        return logits.sigmoid() if self.learns_scores else logits.softmax(-1)

    def training_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Returns the cross-entropy of the labels, mean over the texts."""
        loss = self.loss(self(batch.input_ids, batch.attention_mask), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: LabeledBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        logits = self(batch.input_ids, batch.attention_mask)
        self.mean_loss.update(self.loss(logits, batch.labels), weight=len(batch.labels))
        probabilities = self.probabilities(logits)
        is_binary = len(self.labels) == 2 and not self.learns_scores
        self.metrics.update(probabilities[:, 1] if is_binary else probabilities, batch.labels)

    test_step = validation_step

    def predict_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Returns the probabilities of the labels, ``[b, labels]``."""
        return self.probabilities(self(batch.input_ids, batch.attention_mask))


def classification_metrics(classes: int) -> MetricCollection:
    """Makes accuracy, F1 and AUROC.

    Of 2 classes they take the second's probability ``[b]``; of more, the probabilities
    ``[b, classes]``, and F1 and AUROC are means over the classes.
    """
    from torchmetrics.classification import AUROC, Accuracy, F1Score

    task: Any = {"task": "multiclass", "num_classes": classes}
    task = {"task": "binary"} if classes == 2 else task
    return MetricCollection(
        {
            "accuracy": Accuracy(**task, average="micro"),
            "f1": F1Score(**task, average="macro"),
            "auroc": AUROC(**task, average="macro"),
        }
    )


def _check_labels(source: ModelSource, labels: list[str]) -> None:
    """Refuses to rename, swap or drop the classes of a model that is a classifier already.

    Unnamed classes (``LABEL_0``) may be named.
    """
    if not any("SequenceClassification" in kind for kind in source.config.architectures or []):
        return
    its_labels = labels_of(source.config, source.base)
    is_unnamed = all(label.startswith("LABEL_") for label in its_labels)
    if its_labels != labels and not (is_unnamed and len(its_labels) == len(labels)):
        raise InputError(
            f"labels={labels}: {source.base!r} is a classifier of {its_labels}, in this order. "
            "Give these labels, or begin from an encoder without a head."
        )
