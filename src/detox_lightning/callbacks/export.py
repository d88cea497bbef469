"""Writes the trained model as folders that other programs open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from detox_lightning.callbacks.dashboard import hyper_parameters
from detox_lightning.callbacks.hub import MERGED, check_push, upload, without_folders
from detox_lightning.errors import TrainingError
from detox_lightning.models.finite import check_finite
from detox_lightning.models.opening import is_local
from detox_lightning.models.saving import save_merged
from detox_lightning.report.card import CardFacts, last_test, model_card
from detox_lightning.runs.checkpoint_reading import opened, reading
from detox_lightning.runs.provenance import KEY as MADE
from detox_lightning.runs.provenance import training
from detox_lightning.runs.run_folders import (
    filled_meanwhile,
    free,
    holds_something,
    log_folder,
    refuse_full,
    run_folder,
    whole,
)
from detox_lightning.stages.checkpoint import KEY as STAMP
from detox_lightning.stages.checkpoint import trainable_names


class ExportCallback(Callback):
    """Writes a Hugging Face folder when ``fit`` has come to its end, and where ``export`` asks.

    A run that is stopped by an error or by hand writes none, and neither does ``fast_dev_run``; a
    folder that is there is complete. Its model card tells where it comes from.
    """

    def __init__(
        self, folder: str | None = None, merged: bool = False, push_to_hub: str | None = None
    ):
        """Notes where to.

        Args:
            folder: Where to, nothing or an empty folder as yet; null writes ``model`` or
                ``adapter`` into the run's log folder.
            merged: Whether an adapter is also written as a plain model, merged with its base; into
                ``merged`` (or ``FOLDER-merged``) beside it. What is trained whole is plain as it
                is.
            push_to_hub: Name of a private repository on the hub that gets the folder,
                ``user/name``; null: nothing leaves this machine. A public one is refused.
                The merged model goes to ``user/name-merged``; an adapter whose base is a folder of
                this machine does not go without it. The model card then tells the last part of
                each path alone; it tells the command and the hyper-parameters, so read it before
                you make it public.
        """
        self.folder = folder
        self.merged = merged
        self.push_to_hub = push_to_hub
        self.written: Path | None = None
        self.trained = False
        self.private: list[str] = []  # places that a card doesn't tell

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes that there is something new to write."""
        self.trained = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that holds something, before anything is opened.

        Not in a run's folder that has checkpoints: the run may have come to its end.

        Raises:
            InputError: If it does.
        """
        if stage == "fit" and self.folder is not None:
            going_on = (log_folder(trainer) / "checkpoints").exists()  # asks all processes
            if not going_on:
                self.refuse_full()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a folder that holds something, where there is something left to train.

        Raises:
            InputError: If it does.
        """
        self.refuse_full()

    def refuse_full(self) -> None:
        """Refuses a folder that holds something.

        Raises:
            InputError: If it does.
        """
        if self.folder is not None:
            refuse_full(Path(self.folder), f"export.folder={self.folder}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says before training what can't be done after it.

        Raises:
            InputError: If the folder could not be sent to the hub, or would be of no use there.
        """
        if not getattr(trainer, "fast_dev_run", False):
            self.check(pl_module)

    def check(self, module: Any) -> None:
        """Refuses what can't be sent, and says where there is nothing to merge.

        Args:
            module: What is exported; its weights are open.

        Raises:
            InputError: See :func:`check_push`.
        """
        is_adapter = module.export_name == "adapter"
        if self.merged and not is_adapter:
            rank_zero_warn("export.merged: nothing is merged, as the model is trained whole")
        if self.push_to_hub:
            base = module.tokenizer_name if is_adapter else None
            self.push_to_hub = check_push(self.push_to_hub, base, self.merged)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folders, in one process; of a finished run what it has not written."""
        if getattr(trainer, "fast_dev_run", False):
            return
        root = log_folder(trainer)  # asks all processes
        module: Any = pl_module
        default = root / module.export_name
        folder = default if self.folder is None else Path(self.folder)
        written = not self.trained and is_export(folder)
        merges = self.merged and module.export_name == "adapter"
        complete = written and not (merges and not holds_something(merged_beside(folder)))
        if trainer.strategy.broadcast(complete):  # the first may be writing while others look
            rank_zero_info(
                f"Nothing was left to do: the run in {root} had come to its end, and {folder} is "
                "there. To train longer, raise --trainer.max_epochs"
            )
            return
        folder = folder if written else self.free_folder(default)
        self.written = folder
        try:
            if trainer.is_global_zero:
                self.write(trainer, module, folder, module.hparams, training(trainer, module))
        finally:  # whatever went wrong, the other processes don't wait for ever
            trainer.strategy.barrier("export")

    def write_checkpoint(self, trainer: Trainer, module: Any, checkpoint: Path) -> None:
        """Writes what a checkpoint holds, while its run goes on or after it.

        Args:
            trainer: The one that was asked.
            module: What the checkpoint is of; its weights are opened.
            checkpoint: The file.

        Raises:
            InputError: If the checkpoint isn't of this module, or the folder holds something.
        """
        self.refuse_full()
        module.configure_model()
        self.check(module)
        with reading(checkpoint):
            saved = opened(checkpoint)
            module.on_load_checkpoint(saved)
            module.load_state_dict(saved["state_dict"], strict=False)
        root = run_folder(trainer, checkpoint)
        name = f"{module.export_name}-{checkpoint.stem}"
        folder = self.free_folder(root / name)
        options = saved.get("hyper_parameters") or module.hparams
        # a checkpoint of an earlier version tells less
        made = {"base": saved[STAMP]["base"], "data": [], "about": {"stage": type(module).__name__}}
        made |= saved.get(MADE, {})
        self.write(trainer, module, folder, options, made, last_test(root, checkpoint))
        self.written = folder

    def free_folder(self, default: Path) -> Path:
        """Where to write: the folder that was given, else the default; over nothing.

        Args:
            default: Gets a number where there is something.
        """
        if self.folder is None:
            return free(default)
        return filled_meanwhile(Path(self.folder), f"export.folder={self.folder}")

    def write(
        self,
        trainer: Trainer,
        module: Any,
        folder: Path,
        options: Mapping[str, Any],
        made: Mapping[str, Any],
        tested: dict[str, Any] | None = None,
    ) -> None:
        """Writes the folder and what else is wanted, each with its card, and sends them.

        Args:
            trainer: Knows the last validation's figures.
            module: What is exported.
            folder: Where to; an export that is there stays as it is.
            options: What it was trained with.
            made: What :func:`training` told of its training.
            tested: ``summary.json`` of a test of it; None: there was none.
        """
        is_adapter = module.export_name == "adapter"
        is_classifier = not hasattr(module, "family")
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k[:4] == "val/"}
        facts = CardFacts(
            folder.name,
            "classifier" if is_classifier else module.export_name,
            getattr(module, "family", module).auto_class,
            made["base"],
            made["data"],
            made["about"],
            hyper_parameters(options),
            metrics,
            tested,
        )
        own = [trainer.default_root_dir, *(logger.save_dir or "" for logger in trainer.loggers)]
        self.private = [*own, made["base"], *made["data"]]
        if not is_export(folder):
            write_whole(module, folder, self.card(facts))
        rank_zero_info(f"The trained model is in {folder}")
        merged = self.merge(module, folder, facts) if self.merged and is_adapter else None
        if self.push_to_hub and not (is_adapter and is_local(module.tokenizer_name)):
            upload(folder, self.push_to_hub)
        if self.push_to_hub and merged is not None:
            upload(merged, f"{self.push_to_hub}-{MERGED}")

    def card(self, facts: CardFacts) -> str:
        """The model card; one that leaves this machine says nothing of its folders."""
        card = model_card(facts)
        return without_folders(card, self.private) if self.push_to_hub else card

    def merge(self, module: Any, adapter: Path, facts: CardFacts) -> Path:
        """Writes an adapter merged with its base, beside it.

        Args:
            module: What it is of.
            adapter: Its folder.
            facts: Of its card.

        Returns:
            The folder.
        """
        folder = free(merged_beside(adapter))
        with whole(folder) as partial:
            trusted = module.weights.trust_remote_code
            save_merged(adapter, partial, module.family.auto_class, trusted)
            card = self.card(facts._replace(name=folder.name, kind="model"))
            (partial / "README.md").write_text(card, encoding="utf8")
        rank_zero_info(f"Merged with its base it is in {folder}")
        return folder


def merged_beside(adapter: Path) -> Path:
    """Where the merged model of an adapter's folder is."""
    name = adapter.name.replace("adapter", MERGED, 1)
    return adapter.with_name(name if name != adapter.name else f"{name}-{MERGED}")


def is_export(folder: Path) -> bool:
    """Whether a model or an adapter is in a folder; what is there has all of it."""
    return any(folder.glob("*config.json"))


def write_whole(module: Any, folder: Path, card: str | None = None) -> None:
    """Lets a module export itself; the folder appears only when everything is in it.

    Args:
        module: What has ``export(folder)``.
        folder: Where to.
        card: The text of its ``README.md``; None for none.

    Raises:
        InputError: If there is something in the folder.
        TrainingError: If the weights are not finite.
    """
    learned = set(trainable_names(module))
    check_finite(
        ((name, x) for name, x in module.named_parameters() if name in learned),
        f"{folder} is not written",
        "training has broken them; export a checkpoint from before it",
        TrainingError,
    )
    with whole(folder) as partial:
        module.export(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf8")
