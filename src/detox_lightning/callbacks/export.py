"""Writes the trained model as folders that other programs can open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.callbacks.dashboard import hyper_parameters
from detox_lightning.callbacks.hub import MERGED, check_push, upload, without_folders
from detox_lightning.errors import TrainingError
from detox_lightning.models.opening import is_local
from detox_lightning.models.precision import check_finite
from detox_lightning.models.saving import save_merged
from detox_lightning.protocols import CHECKPOINT_KEY, as_stage
from detox_lightning.report.card import CardFacts, last_test, model_card
from detox_lightning.runs.checkpoint_reading import blame_checkpoint, open_checkpoint
from detox_lightning.runs.provenance import ORIGIN_KEY, training_origin
from detox_lightning.runs.run_folders import (
    CHECKPOINTS,
    atomic_folder,
    is_occupied,
    is_trial,
    log_folder,
    newest_path,
    next_free_path,
    output_folder,
    refuse_occupied,
    run_folder,
)
from detox_lightning.stages.checkpoint import trainable_names


class ExportCallback(Callback):
    """Writes a Hugging Face folder when ``fit`` has reached its end, and in ``export``.

    A run that an error or a user stops writes none, and neither does ``fast_dev_run``. A folder
    that exists is complete. Its model card tells its origin.
    """

    def __init__(
        self, folder: str | None = None, merged: bool = False, push_to_hub: str | None = None
    ):
        """Sets the folder.

        Args:
            folder: A new or empty folder; null writes ``model`` or ``adapter`` into the run's log
                folder.
            merged: Whether to write an adapter also as a plain model, merged with its base, to
                ``merged`` (or ``FOLDER-merged``) beside it. A model that is trained whole is plain
                already.
            push_to_hub: Name of a private repository on the hub that gets the folder,
                ``user/name``; null: nothing leaves this machine. A public repository is refused.
                The merged model goes to ``user/name-merged``; an adapter whose base is a folder of
                this machine is only sent merged. The model card then shows only the last part of
                each path, but also the command and the hyper-parameters: read it before you make
                it public.
        """
        self.folder = folder
        self.merged = merged
        self.push_to_hub = push_to_hub
        self.written: Path | None = None
        self.has_trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that is not empty, before a model is opened.

        If the run's folder has checkpoints, the run may be complete, and so may its export.
        """
        # log_folder asks all processes
        if stage == "fit" and not (log_folder(trainer) / CHECKPOINTS).exists():
            self._refuse_occupied()

    def _refuse_occupied(self) -> None:
        if self.folder is not None:
            refuse_occupied(Path(self.folder), f"export.folder={self.folder}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses, before training, what can't be sent to the hub or is useless there."""
        self.has_trained = False
        if not is_trial(trainer) and as_stage(pl_module) is not None:
            self._check_options(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a folder that is not empty, if anything is left to train."""
        self._refuse_occupied()
        self.has_trained = True

    def _check_options(self, module: Any) -> None:
        """Warns if there is nothing to merge; raises an InputError if nothing can be sent."""
        is_adapter = module.export_name == "adapter"
        if self.merged and not is_adapter:
            rank_zero_warn("export.merged: nothing is merged, as the model is trained whole")
        if self.push_to_hub:
            base = module.source.base if is_adapter else None
            self.push_to_hub = check_push(self.push_to_hub, base, self.merged)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folders, in one process; of a complete run only those that are missing."""
        if is_trial(trainer) or as_stage(pl_module) is None:
            return
        root = log_folder(trainer)  # asks all processes
        module: Any = pl_module
        default = root / module.export_name
        folder = newest_path(default) if self.folder is None else Path(self.folder)
        is_exported = not self.has_trained and _is_export(folder)
        lacks_merged = self._merges(module) and not is_occupied(_merged_beside(folder))
        # the first process may write while others look
        if trainer.strategy.broadcast(is_exported and not lacks_merged):
            rank_zero_info(
                f"Nothing was left to do: the run in {root} is complete, and {folder} exists. To "
                "train longer, raise --trainer.max_epochs"
            )
            return
        former = folder
        if not is_exported:
            folder = output_folder("export.folder", self.folder, default)
        self.written = folder
        try:
            if trainer.is_global_zero:
                made = training_origin(trainer, module)
                self._write(trainer, module, folder, module.hparams, made)
                if folder != former:
                    rank_zero_info(f"{former} holds an earlier model, from before this training")
        finally:  # the other processes wait here, even if this one fails
            trainer.strategy.barrier("export")

    def write_checkpoint(self, trainer: Trainer, module: Any, checkpoint: Path) -> None:
        """Writes the model that a checkpoint holds, during its run or after it.

        Args:
            trainer: The trainer of the command ``export``.
            module: The stage that wrote the checkpoint; it loads the checkpoint's weights.
            checkpoint: The file.

        Raises:
            InputError: If the checkpoint doesn't fit the module, or the folder is not empty.
        """
        self._refuse_occupied()
        module.configure_model()
        self._check_options(module)
        with blame_checkpoint(checkpoint):
            saved = open_checkpoint(checkpoint)
            module.on_load_checkpoint(saved)
            module.load_state_dict(saved["state_dict"], strict=False)
        root = run_folder(trainer, checkpoint)
        default = root / f"{module.export_name}-{checkpoint.stem}"
        self.written = output_folder("export.folder", self.folder, default)
        options = saved.get("hyper_parameters") or module.hparams
        made = {  # a checkpoint of an earlier version tells only these
            "base": saved[CHECKPOINT_KEY]["base"],
            "data": [],
            "prompt": {},
            "about": {"stage": type(module).__name__},
        }
        made |= saved.get(ORIGIN_KEY, {})
        self._write(trainer, module, self.written, options, made, last_test(root, checkpoint))

    def _merges(self, module: Any) -> bool:
        return self.merged and module.export_name == "adapter"

    def _write(
        self,
        trainer: Trainer,
        module: Any,
        folder: Path,
        options: Mapping[str, Any],
        made: Mapping[str, Any],
        tested: dict[str, Any] | None = None,
    ) -> None:
        """Writes the export and, if asked, the merged model, with their cards; sends both.

        Args:
            trainer: The trainer, which knows the last validation's figures.
            module: The stage that is exported.
            folder: Folder of the export; an existing export stays as it is.
            options: The hyper-parameters of the training.
            made: The result of :func:`training_origin`.
            tested: ``summary.json`` of a test of the model; None: there was none.
        """
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k[:4] == "val/"}
        facts = CardFacts(
            name=folder.name,
            kind="classifier" if module.family is None else module.export_name,
            auto_class=module.auto_class,
            base=made["base"],
            data=made["data"],
            prompt=made["prompt"],
            about=made["about"],
            hyper_parameters=hyper_parameters(options),
            metrics=metrics,
            tested=tested,
        )
        if not _is_export(folder):
            write_export(module, folder, self._card(facts, trainer))
        rank_zero_info(f"The trained model is in {folder}")
        merged = next_free_path(_merged_beside(folder)) if self._merges(module) else None
        if merged is not None:
            with atomic_folder(merged) as partial:
                save_merged(folder, partial, module.auto_class, module.weights.trust_remote_code)
                card = self._card(facts._replace(name=merged.name, kind="model"), trainer)
                (partial / "README.md").write_text(card, encoding="utf8")
            rank_zero_info(f"The model merged with its base is in {merged}")
        is_adapter = module.export_name == "adapter"
        if self.push_to_hub and not (is_adapter and is_local(module.source.base)):
            upload(folder, self.push_to_hub)
        if self.push_to_hub and merged is not None:
            upload(merged, f"{self.push_to_hub}-{MERGED}")

    def _card(self, facts: CardFacts, trainer: Trainer) -> str:
        """Returns the model card; one that leaves this machine hides its folders."""
        card = model_card(facts)
        if not self.push_to_hub:
            return card
        folders = [trainer.default_root_dir, *(logger.save_dir or "" for logger in trainer.loggers)]
        return without_folders(card, [*folders, facts.base, *facts.data])


def _merged_beside(adapter: Path) -> Path:
    """Returns where the merged model of an adapter's folder is."""
    name = adapter.name.replace("adapter", MERGED, 1)
    return adapter.with_name(name if name != adapter.name else f"{name}-{MERGED}")


def _is_export(folder: Path) -> bool:
    """Whether a folder has a model or an adapter, which is then complete."""
    return any(folder.glob("*config.json"))


def write_export(module: Any, folder: Path, card: str | None = None) -> None:
    """Lets a stage export itself; the folder gets its name when it is complete.

    Args:
        module: The stage.
        folder: A new or empty folder.
        card: The text of its ``README.md``; None for none.

    Raises:
        InputError: If the folder is not empty.
        TrainingError: If the weights are not finite.
    """
    trainable = set(trainable_names(module))
    check_finite(
        ((name, x) for name, x in module.named_parameters() if name in trainable),
        f"{folder} is not written",
        "training has broken them; export a checkpoint from before it",
        TrainingError,
    )
    with atomic_folder(folder) as partial:
        module.export(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf8")
