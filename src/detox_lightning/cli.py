"""The command line: LightningCLI with this package's defaults.

``python -m detox_lightning {fit,validate,test,predict,export} --config FILE [--flag VALUE …]``
"""

import re
import sys
import warnings
from collections.abc import Sequence
from logging import LogRecord, getLogger
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import detox_lightning.data
import detox_lightning.modules  # noqa: F401  (so that class_path takes short names)
from detox_lightning.callbacks.checkpoint import BoundedCheckpoint
from detox_lightning.callbacks.configuration import ConfigurationCallback
from detox_lightning.callbacks.curves import claim_folders, keep_rows
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.origin import OriginCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.callbacks.resume import ResumeCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.callbacks.watch import WatchCallback
from detox_lightning.errors import InputError
from detox_lightning.modules.strategy import check_strategy
from detox_lightning.recipes import HELP, RecipeAction
from detox_lightning.resume import choose_checkpoint

TRAINER_DEFAULTS = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "default", "default_hp_metric": False},
    },
    "callbacks": [  # always there
        ResumeCallback(),
        DashboardCallback(),
        OriginCallback(),
        WatchCallback(),
    ],
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}


# what users can do nothing about, and what is so on purpose
KNOWN_WARNINGS = (
    ".*is_gradient_checkpointing.*",
    ".*isinstance.treespec, LeafSpec.*",
    r"Found \d+ module\(s\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*args parameter is intended to run from within Python.*",
    "The dirpath has changed from.*",
    "Checkpoint directory .* exists and is not empty.*",
    "Experiment logs directory .* exists and is not empty.*",
    "Using ModelCheckpoint with manual optimization and every_n_train_steps.*",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
)


# what jsonargparse says around the point: other members of a union, whole configurations
PADDING = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Problem with given class_path|Parser key"
    r"|Given value type:|Given value: (?:NestedArg|Namespace|{)|Expected a <class 'NoneType'>"
    r"|Expected a path but|$"
)


class Parser(LightningArgumentParser):
    """A parser whose errors are a line, not a page; those inside a class's options included."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Wants options in full, at every depth.

        Args:
            args: For LightningArgumentParser.
            kwargs: Likewise.
        """
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Adds an option; ``--config`` is one that knows the package's recipes.

        Args:
            names: For LightningArgumentParser.
            options: Likewise.
        """
        if "--config" in names:
            options |= {"action": RecipeAction, "help": HELP}
        return super().add_argument(*names, **options)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Parses words; inside another parser, whose null arrives as the word None, puts it back.

        Args:
            args: The words; None for the program's own.
            rest: For LightningArgumentParser.
            options: Likewise.
        """
        if args is not None and not self.exit_on_error:
            args = [re.sub(r"=None$", "=null", word) for word in args]
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Says what is wrong and exits with code 2."""
        if not self.exit_on_error:  # a parser inside another one, which will name the whole flag
            super().error(message, ex)
        program = self.prog.replace("[options] ", "")
        sys.stderr.write(f"error: {condense(message)}\nSee {program} --help\n")
        self.exit(2)


def condense(message: str) -> str:
    """Brings a nested message of jsonargparse down to the flag and what is wrong with it.

    Args:
        message: Lines such as ``Parser key "model":``, the deeper the more indented.
    """
    message = re.sub(r".*callable class: (Option)|\. Got value: Namespace.*", r"\1", message)
    flag, indent, end = "", -1, 0
    for key in re.finditer(r'^( *)(?:Type .*)?Parser key "(.+?)":', message, re.MULTILINE):
        if len(key[1]) > indent:
            flag, indent, end = f"{flag}.{key[2]}".lstrip("."), len(key[1]), key.end()
    if not flag:
        return message
    lines = [line.strip(" -") for line in message[end:].splitlines()]
    reason = "; ".join(dict.fromkeys(line for line in lines if not PADDING.match(line)))
    if option := re.match(r"(?:Option '|unrecognized arguments: --)([\w.+]+)", reason):
        return f"--{flag}.{option[1]}: there is no such option"
    return f"--{flag}: " + re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)


class DetoxTrainer(Trainer):
    """Lightning's Trainer with one verb more.

    Attributes:
        words: The command line that it was made by; None: it was made otherwise.
    """

    words: Sequence[str] | None = None

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Writes what a checkpoint holds as Hugging Face folders, also while its run goes on.

        Args:
            model: What the checkpoint is of.
            datamodule: Its data, which is named in the model card.
            ckpt_path: The checkpoint, or ``last`` for the newest run's last one.

        Raises:
            InputError: If there is no such checkpoint.
        """
        self.datamodule = datamodule
        if ckpt_path is None or not Path(ckpt_path).is_file():
            raise InputError(
                f"--ckpt_path={ckpt_path}: there is no such file; give the checkpoint to export, "
                "or last"
            )
        for callback in self.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ExportCallback):
                callback.write_checkpoint(self, model, Path(ckpt_path))


class DetoxCLI(LightningCLI):
    """LightningCLI in subclass mode, where flags win over what a checkpoint says.

    Attributes:
        debug: Whether the newest command wants errors with their tracebacks.
    """

    debug = False

    def __init__(self, args: list[str] | None = None):
        """Parses the command line and runs what it asks for.

        Args:
            args: The command line's words; None for the program's own.
        """
        quieten()
        self.words = sys.argv[1:] if args is None else list(args)
        DetoxCLI.debug = "--debug" in self.words  # also while the words are read
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=DetoxTrainer,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=ConfigurationCallback,
            parser_kwargs={"prog": "python -m detox_lightning"},
            parser_class=Parser,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs and ``export``."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **options: Any
    ) -> LightningArgumentParser:
        """As Lightning does it; but a verb and a section may have the same name.

        The parsers of verbs that aren't asked for stay empty, since to build one takes a while.
        """
        asked = self.words[0] if self.words else "--help"
        if asked != subcommand and asked in {*self.subcommands(), "-h", "--help"}:
            return self.init_parser(**options)
        if subcommand != "export":
            parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
            parser.set_defaults({"weights_only": True})  # Lightning trusts what comes over http
            return parser
        parser = self.init_parser(**options)
        self._add_arguments(parser)
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="The checkpoint to export, or last."
        )
        self._subcommand_method_arguments[subcommand] = ["ckpt_path"]
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Gives our callbacks sections of their own in the configuration, and adds two flags."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of one operation. null: one a core. Use 1 for tiny models: with "
            "more, any other load on the machine makes them many times slower.",
        )
        parser.add_argument(
            "--debug",
            action="store_true",
            help="Show where an error comes from (its traceback), not only what is wrong.",
        )
        parser.add_lightning_class_args(BoundedCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ExportCallback, "export")
        parser.add_lightning_class_args(SamplesCallback, "samples")
        parser.add_lightning_class_args(ReportCallback, "report")
        parser.add_lightning_class_args(PredictionsCallback, "predictions")
        parser.set_defaults({"checkpoint.save_last": True})

    def before_instantiate_classes(self) -> None:
        """Silences libraries, sets the number of threads, refuses strategies that can't work.

        Raises:
            InputError: If the strategy is one of them.
        """
        DetoxCLI.debug = self.config[self.subcommand].debug
        quieten_transformers()
        strategy = self.config[self.subcommand].trainer.strategy
        check_strategy(strategy if isinstance(strategy, str) else strategy.class_path)
        if threads := self.config[self.subcommand].threads:
            torch.set_num_threads(threads)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Makes the trainer, which knows the command line."""
        trainer = super().instantiate_trainer(**options)
        trainer.words = self.words  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Takes a run's folder, and saves from Lightning what is in it of one that goes on."""
        trainer: Any = self.trainer
        claim_folders(trainer.loggers)
        if trainer.num_devices * trainer.num_nodes == 1:  # several must have met before
            for callback in trainer.callbacks:
                if isinstance(callback, ResumeCallback):
                    callback.hold(trainer, self.config.fit.ckpt_path)
        keep_rows(trainer.loggers)

    def test(self, **options: Any) -> None:
        """Runs ``test``; where a report's table is printed, Lightning's long one is not."""
        verbose = options.pop("verbose", True) and not hasattr(self.model, "comparison")
        self.trainer.test(verbose=verbose, **options)

    def _parse_ckpt_path(self) -> None:
        """Keeps a checkpoint's hyper-parameters from overriding the flags, and finds ``last``."""
        verb = self.config.get("subcommand")
        config = self.config.get(verb)
        if config is not None and config.get("ckpt_path") is not None:
            choose_checkpoint(verb, config)


def quieten() -> None:
    """Silences advertisements and warnings of what is meant so."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)


def quieten_transformers() -> None:
    """Silences its advertisements and its bars of instants."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def is_no_advertisement(record: LogRecord) -> bool:
    """Whether a log line tells of this run, rather than of a product."""
    return "Tip: For seamless cloud" not in record.getMessage()
