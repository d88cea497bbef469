"""The reward stage: teaches a sequence classifier to tell hate from the rest."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from detox_lightning.batches import LabeledBatch
from detox_lightning.errors import InputError
from detox_lightning.models.batching import count_positions
from detox_lightning.models.classifier_heads import labels_of
from detox_lightning.models.loading import Weights, load_model, load_tokenizer
from detox_lightning.models.precision import check_trainable_dtype
from detox_lightning.models.source import ModelSource
from detox_lightning.models.text_padding import padding_id, repadded
from detox_lightning.protocols import data_of
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.optimization import CONSTANT, Schedule
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.stage_module import AutomaticStage


class RewardModule(AutomaticStage):
    """Fine-tunes a sequence classifier on labelled text.

    Logs ``train/loss``; under ``val/`` and ``test/`` loss, accuracy, F1 and AUROC. With two labels,
    F1 and AUROC are those of the second; with more, they are means over the labels. The members
    are those of :class:`~detox_lightning.protocols.Stage`.
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

        Raises:
            InputError: If there are fewer than two labels, or two of the same name, or the weights
                are to be quantized or bfloat16, as all of them are trained.
        """
        super().__init__(model, weights, optimizer, schedule, max_faults)
        self.save_hyperparameters()
        self.model, self.mean_loss = None, MeanMetric()
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise InputError(f"labels={list(labels)}: give two or more different names.")
        check_trainable_dtype(self.weights, is_classifier=True)
        self.labels = list(labels)
        self.metrics = classification_metrics(len(labels))

    @property
    def source(self) -> ModelSource:
        """The model, which is no adapter."""
        return ModelSource(self.model_name, None, None, self.weights.revision, None, self.weights)

    def setup(self, stage: str) -> None:
        """Checks the trainer's options before any model is opened."""
        check_conditions(self, stage, ("loss", *self.metrics))

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
            problem_type="single_label_classification",
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
        ids, mask = repadded(self.model, input_ids, attention_mask.bool())
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).logits
        return logits.float()

    def training_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Returns the cross-entropy of the labels, mean over the texts."""
        loss = F.cross_entropy(self(batch.input_ids, batch.attention_mask), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: LabeledBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        logits = self(batch.input_ids, batch.attention_mask)
        self.mean_loss.update(F.cross_entropy(logits, batch.labels), weight=len(batch.labels))
        probabilities = logits.softmax(-1)
        is_binary = len(self.labels) == 2
        self.metrics.update(probabilities[:, 1] if is_binary else probabilities, batch.labels)

    test_step = validation_step

    def predict_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Returns the probabilities of the classes, ``[b, classes]``."""
        return self(batch.input_ids, batch.attention_mask).softmax(-1)


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
