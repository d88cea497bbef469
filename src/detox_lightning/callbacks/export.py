"""Writes the trained model as folders that other programs open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.callbacks.dashboard import hyper_parameters
from detox_lightning.callbacks.folders import (
    free,
    holds_something,
    log_folder,
    refuse_full,
    run_folder,
    whole,
)
from detox_lightning.callbacks.origin import origin
from detox_lightning.errors import InputError
from detox_lightning.models.loading import save_merged
from detox_lightning.report.card import CardFacts, last_test, model_card

MERGED = "merged"


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
                ``merged`` (or ``FOLDER-merged``) beside it.
            push_to_hub: Name of a private repository on the hub that gets the folder,
                ``user/name``; null: nothing leaves this machine. Read the model card first: it
                tells the command and the names of your folders.
        """
        self.folder = folder
        self.merged = merged
        self.push_to_hub = push_to_hub
        self.written: Path | None = None
        self.trained = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes that there is something new to write."""
        self.trained = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that holds something, before training.

        Raises:
            InputError: If it does.
        """
        if stage == "fit" and self.folder is not None:
            refuse_full(Path(self.folder), f"export.folder={self.folder}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folders, in one process; not twice what a finished run has written."""
        if getattr(trainer, "fast_dev_run", False):
            return
        root = log_folder(trainer)  # asks all processes
        module: Any = pl_module
        if not self.trained and self.folder is None and holds_something(root / module.export_name):
            rank_zero_info(
                f"Nothing was left to do: the run in {root} had come to its end. To train longer, "
                "raise --trainer.max_epochs"
            )
            return
        folder = Path(self.folder) if self.folder is not None else free(root / module.export_name)
        self.written = folder
        try:
            if trainer.is_global_zero:
                self.write(trainer, module, folder, module.hparams)
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
        if self.folder is not None:
            refuse_full(Path(self.folder), f"export.folder={self.folder}")
        module.configure_model()
        try:
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file fails in many ways
            raise InputError(
                f"--ckpt_path={checkpoint}: can't be read as a checkpoint ({error})".split("\n")[0]
            ) from error
        module.on_load_checkpoint(saved)
        module.load_state_dict(saved["state_dict"], strict=False)
        root = run_folder(trainer, checkpoint)
        name = f"{module.export_name}-{checkpoint.stem}"
        folder = Path(self.folder) if self.folder is not None else free(root / name)
        options = saved.get("hyper_parameters") or module.hparams
        self.write(trainer, module, folder, options, last_test(root, checkpoint))
        self.written = folder

    def write(
        self,
        trainer: Trainer,
        module: Any,
        folder: Path,
        options: Mapping[str, Any],
        tested: dict[str, Any] | None = None,
    ) -> None:
        """Writes the folder and what else is wanted, each with its card.

        Args:
            trainer: Knows the last validation's figures.
            module: What is exported.
            folder: Where to.
            options: What it was trained with.
            tested: ``summary.json`` of a test of it; None: there was none.
        """
        is_adapter = module.export_name == "adapter"
        kind = "classifier" if not hasattr(module, "family") else module.export_name
        dialogues = getattr(getattr(trainer, "datamodule", None), "dialogues", None)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k[:4] == "val/"}
        facts = CardFacts(
            folder.name,
            kind,
            module.tokenizer_name,
            dialogues.source if dialogues is not None else None,
            {"stage": type(module).__name__, **getattr(module, "about", {}), **origin()},
            hyper_parameters(options),
            metrics,
            tested,
        )
        write_whole(module, folder, model_card(facts))
        rank_zero_info(f"The trained model is in {folder}")
        if self.merged and is_adapter:
            name = folder.name.replace("adapter", MERGED, 1)
            merged = free(folder.with_name(name if name != folder.name else f"{name}-{MERGED}"))
            card = model_card(facts._replace(name=merged.name, kind="model"))
            with whole(merged) as partial:
                save_merged(folder, partial, module.family.auto_class)
                (partial / "README.md").write_text(card, encoding="utf8")
            rank_zero_info(f"Merged with its base it is in {merged}")
        if self.push_to_hub:
            upload(folder, self.push_to_hub)


def write_whole(module: Any, folder: Path, card: str | None = None) -> None:
    """Lets a module export itself; the folder appears only when everything is in it.

    Args:
        module: What has ``export(folder)``.
        folder: Where to.
        card: The text of its ``README.md``; None for none.

    Raises:
        InputError: If there is something in the folder.
    """
    with whole(folder) as partial:
        module.export(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf8")


def upload(folder: Path, repository: str) -> None:
    """Copies a folder to the hub.

    Args:
        folder: What to copy.
        repository: ``user/name``; made if it isn't there.

    Raises:
        InputError: If the hub refuses or can't be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # no network, no token, no right: all end the same way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"export.push_to_hub={repository}: not uploaded ({reason}). The folder {folder} is "
            f"whole; later: hf upload {repository} {folder}"
        ) from error
