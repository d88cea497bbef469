"""Lightning's Trainer with this package's defaults, for the command line and for Python."""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.callbacks.evaluation_pace import EvaluationPaceCallback
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.fault_files import FaultsCallback
from detox_lightning.callbacks.narration import NarrationCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.cli.process import isolated, quieten_transformers
from detox_lightning.compare.conversation import Conversation
from detox_lightning.compare.page_server import PageServer
from detox_lightning.data.prompts import PromptDataModule
from detox_lightning.errors import InputError
from detox_lightning.modules import PPOModule
from detox_lightning.protocols import callbacks_of
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.end_of_data import EndingCallback
from detox_lightning.runs.find_checkpoint import choose_checkpoint, log_beside
from detox_lightning.runs.peer_failure import PeerFailureCallback
from detox_lightning.runs.provenance import CommandLine, OriginCallback
from detox_lightning.runs.resume_callback import ResumeCallback, fit_folders
from detox_lightning.runs.several_checkpoints import listed_before, names_of, other_checkpoints
from detox_lightning.runs.truncate_logs import refuse_unwritable_logs
from detox_lightning.stages.devices import choose_accelerator
from detox_lightning.stages.run_checks import check_loop, refuse_nothing

LOGGER: dict[str, Any] = {"save_dir": "runs", "name": "default", "default_hp_metric": False}
DEFAULTS = {
    "enable_model_summary": False,  # it counts the reward's classifier as well
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}
CALLBACKS: list[Callable[[], Callback]] = [
    *(ResumeCallback, DashboardCallback, NarrationCallback, EvaluationPaceCallback),
    *(OriginCallback, EndingCallback),
    *(FaultsCallback, PeerFailureCallback),  # in this order, as the second ends other processes
]
# callbacks with options, by the section of the command line that has them
SECTIONS = {
    "checkpoint": BoundedCheckpoint,
    "export": ExportCallback,
    "samples": SamplesCallback,
    "collapse": CollapseCallback,
    "report": ReportCallback,
    "predictions": PredictionsCallback,
}


class DetoxTrainer(LightningTrainer):
    """Where, how long and in what precision a model is trained: Lightning's Trainer.

    Attributes:
        command: The command that made it; None if a program made it.
        checkpoint: The file of plain values that the command loads; None if there is none.
        others: Checkpoints that ``test`` tests before it, for the report of it.
    """

    command: CommandLine | None = None
    checkpoint: Path | None = None
    others: Sequence[Path] = ()
    val_check_interval: Any = None  # Lightning sets none if validation goes by time

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | list[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Tests a checkpoint, and before it :attr:`others`.

        Args:
            model: The stage; None: that of the last command.
            dataloaders: Loaders of test rows, if there is no data module.
            ckpt_path: The checkpoint; a list of several of one run: the last of them.
            verbose: Whether Lightning prints a table. PPO's report has a table of its own.
            datamodule: The data.
            weights_only: Whether only tensors and plain values are read.
        """
        more = (verbose, datamodule, weights_only)
        for checkpoint in self.others:
            super().test(model, dataloaders, checkpoint, *more)
        about: Any = ckpt_path  # of a list, only the last one has come this far
        return super().test(model, dataloaders, about, *more)

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Writes a checkpoint's model as Hugging Face folders, even while its run goes on.

        Args:
            model: The stage that wrote the checkpoint.
            datamodule: Its data, which the model card names.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.
            weights_only: Stands in each run's config.yaml; only tensors and plain values are read.

        Raises:
            InputError: If there is no such checkpoint.
        """
        self.datamodule = datamodule
        if ckpt_path is None or not Path(ckpt_path).is_file():
            raise InputError(f"--ckpt_path={ckpt_path}: there is no such file; give one, or last")
        for callback in callbacks_of(self):
            if isinstance(callback, ExportCallback):
                callback.write_checkpoint(self, model, Path(ckpt_path))

    def compare(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
        host: str = "127.0.0.1",
        port: int = 7860,
        open_browser: bool = True,
    ) -> None:
        """Serves a page that shows what the model writes before and after training.

        Args:
            model: A PPO module.
            datamodule: Its data, with the prompt's template and the rows that can be chosen.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.
            weights_only: Stands in each run's config.yaml; only tensors and plain values are read.
            host: Address of the page; with 0.0.0.0 everybody who can reach this machine can use it.
            port: Port of the page; if it is taken, the next free one; 0: any free one.
            open_browser: Whether to open the page in a browser, where there is a desktop.
        """
        if not (isinstance(model, PPOModule) and isinstance(datamodule, PromptDataModule)):
            raise InputError(f"compare: {type(model).__name__} has no reference; give a PPO run")
        if self.world_size > 1:
            one = "--trainer.devices=1 --trainer.num_nodes=1 --trainer.strategy=auto"
            raise InputError(f"compare: one process answers, not {self.world_size}; give {one}")
        # it would refuse a file that predict has written
        self.callbacks = [x for x in callbacks_of(self) if not isinstance(x, PredictionsCallback)]
        with PageServer(host, port) as server:
            # predict prepares model, checkpoint, data and device
            vars(self.predict_loop)["run"] = lambda: Conversation(self).hold(server, open_browser)
            self.predict(model, None, datamodule, ckpt_path=ckpt_path, weights_only=weights_only)


class Trainer(DetoxTrainer):
    """Lightning's Trainer, with all that the command line adds, for Python.

    Its methods do what the commands of their names do: they write samples, faults, reports and
    exports, and ``ckpt_path="last"`` finds the newest run, in which ``fit`` resumes.

    Args:
        callbacks: Further callbacks. One of a class of this package, such as
            ``ReportCallback(folder="report")``, takes the place of that class's default.
        logger: Lightning's argument; True: TensorBoard's logger, in ``runs/default``.
        options: All other arguments of Lightning's Trainer.
    """

    def __init__(self, *, callbacks: Any = None, logger: Any = True, **options: Any):
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        kinds: list[Any] = [*CALLBACKS, *SECTIONS.values()]
        if options.get("enable_checkpointing") is False:
            kinds.remove(BoundedCheckpoint)
        missing = [kind() for kind in kinds if not any(isinstance(x, kind) for x in given)]
        options = {"enable_progress_bar": sys.stdout.isatty(), **DEFAULTS, **options}
        options["accelerator"] = choose_accelerator(options.get("accelerator", "auto"))
        quieten_transformers()
        with isolated():
            logger = TensorBoardLogger(**LOGGER) if logger is True else logger
            super().__init__(callbacks=[*missing, *given], logger=logger, **options)


def _as_command(verb: str) -> Callable[..., Any]:
    """Returns a method of Lightning's Trainer that runs as the command of its name does."""
    method = getattr(DetoxTrainer, verb)

    @wraps(method)
    def run(trainer: Trainer, *args: Any, **options: Any) -> Any:
        bound = inspect.signature(method).bind(trainer, *args, **options)
        given, own = bound.arguments, trainer.loggers
        model = given.get("model") or trainer.lightning_module
        given["weights_only"] = given.get("weights_only") is not False  # Lightning trusts files
        with isolated():
            try:
                if verb != "fit":  # they may log into another folder than the next fit
                    trainer.loggers = [copy(logger) for logger in own]
                prepare(trainer, verb, model, given, own)
                with running(trainer, verb, model, given):
                    return method(*bound.args, **bound.kwargs)
            finally:
                trainer.loggers = own

    return run


for _verb in ("fit", "validate", "test", "predict", "export"):
    setattr(Trainer, _verb, _as_command(_verb))


def prepare(trainer: Any, verb: str, model: Any, options: Any, loggers: Sequence[Logger]) -> None:
    """Chooses a command's checkpoint and where it logs; InputError if it can't do what it says.

    ``options`` are the arguments of its method: ``ckpt_path`` becomes a file in them.
    """
    name, is_same = options.get("ckpt_path"), trainer.lightning_module is not None
    verb = "predict" if verb == "compare" else verb  # it logs nothing, either
    trainer.others = []
    if name is not None and not (name == "best" and is_same):
        names, is_all = names_of(name)
        if (is_all or len(names) > 1) and verb != "test":
            raise InputError(
                f"--ckpt_path {name}: only test takes several checkpoints; give {names[-1]}"
            )
        *others, options["ckpt_path"] = (
            choose_checkpoint(verb, trainer, each, loggers, options.get("weights_only"))
            for each in names
        )
        if others or is_all:
            last = Path(options["ckpt_path"])
            trainer.others = listed_before(last, others) if others else other_checkpoints(last)
    if verb == "fit":
        check_loop(trainer, model)
    if verb != "export":
        refuse_nothing(trainer, verb)
    if verb not in ("fit", "export"):
        log_beside(trainer, verb, options.get("ckpt_path"))
    refuse_unwritable_logs(trainer.loggers)


@contextmanager
def running(trainer: Any, verb: str, model: Any, options: dict[str, Any]) -> Iterator[None]:
    """Checks labels, and claims folders, for a block that calls a method with ``options``."""
    if isinstance(model, PPOModule) and verb != "export":
        model.evaluator.judge.check_labels()  # before all rows are encoded
    if verb == "test" and (isinstance(model, PPOModule) or getattr(model, "learns_scores", False)):
        options["verbose"] = False  # its report prints a table in place of Lightning's long one
    with fit_folders(trainer, options.get("ckpt_path")) if verb == "fit" else nullcontext():
        yield
