"""The command line: LightningCLI with this package's defaults."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
import yaml
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

import detox_lightning.data  # noqa: F401  (so that class_path takes short names)
from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.callbacks.config_copy import ConfigurationCallback
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.fault_files import FaultsCallback
from detox_lightning.callbacks.narration import NarrationCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.cli.brief_help import ASKING, brief_help, reword
from detox_lightning.cli.config_files import check_configs, guard_readers
from detox_lightning.cli.flag_checks import check_flags
from detox_lightning.cli.parser import Instantiator, Parser
from detox_lightning.cli.process import few_tries, isolated, quieten_transformers
from detox_lightning.cli.run_config import with_run_config
from detox_lightning.cli.trainer import DetoxTrainer
from detox_lightning.cli.verbs import COMMANDS, PROGRAM, choose_command
from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision
from detox_lightning.modules import PPOModule
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.end_of_data import EndingCallback
from detox_lightning.runs.find_checkpoint import choose_checkpoint, log_beside
from detox_lightning.runs.peer_failure import PeerFailureCallback
from detox_lightning.runs.provenance import CommandLine, OriginCallback
from detox_lightning.runs.resume_callback import ResumeCallback, fit_folders
from detox_lightning.runs.truncate_logs import refuse_unwritable_logs
from detox_lightning.stages.devices import check_devices
from detox_lightning.stages.run_checks import check_loop, refuse_nothing
from detox_lightning.stages.strategy import check_strategy

TRAINER_DEFAULTS = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "default", "default_hp_metric": False},
    },
    "enable_model_summary": False,  # it counts the reward's classifier as well
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}
# sections of options, and the callbacks that they configure
SECTIONS = {
    "checkpoint": BoundedCheckpoint,
    "export": ExportCallback,
    "samples": SamplesCallback,
    "collapse": CollapseCallback,
    "report": ReportCallback,
    "predictions": PredictionsCallback,
}
# arguments of the trainer's methods that other flags make
MADE_HERE: set[str | int] = {
    *("model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"),
}


class DetoxCLI(LightningCLI):
    """Runs one command; its flags win over the hyper-parameters in a checkpoint.

    Only the parser of that command is built; Lightning's subcommands would parse everything twice.

    Attributes:
        debug: Whether the newest command wants errors with their tracebacks.
    """

    debug = False

    def __init__(self, args: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()):
        """Parses the command line and runs the command.

        Args:
            args: The command line's words; None for the program's own.
            callbacks: Callbacks for this run besides those that its flags name.

        Raises:
            InputError: If the first word is no command, or a flag or file is wrong.
        """
        self.words = sys.argv[1:] if args is None else list(args)
        DetoxCLI.debug = "--debug" in self.words  # while the words are parsed
        self.verb = choose_command(self.words)
        own_callbacks = [
            ResumeCallback(),
            DashboardCallback(),
            NarrationCallback(),
            OriginCallback(),
            EndingCallback(),
            FaultsCallback(),  # before the next one, which ends other processes
            PeerFailureCallback(),
            *callbacks,
        ]
        guard_readers()
        with isolated():
            words = with_run_config(self.words)
            check_configs(words)
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_class=DetoxTrainer,
                auto_configure_optimizers=False,
                trainer_defaults={**TRAINER_DEFAULTS, "callbacks": own_callbacks},
                save_config_callback=ConfigurationCallback,
                parser_kwargs={
                    "prog": f"{PROGRAM} {self.verb}",
                    "usage": f"{PROGRAM} {self.verb} --config FILE [--flag VALUE ...]",
                    "description": COMMANDS[self.verb],
                },
                parser_class=Parser,
                args=[ASKING.get(word, word) if word == words[-1] else word for word in words[1:]],
                run=False,
            )
            with few_tries():
                self._run_subcommand(self.verb)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed, with our own help text."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=42,
            help="Seed of all random numbers; true: a random one; false: none is set.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds two flags, a section for each callback that has options, and the command's own."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of one operation; null: one per core. Use 1 for tiny models: with "
            "more threads, any other load on the machine makes them many times slower.",
        )
        parser.add_argument(
            "--debug",
            action="store_true",
            help="Show the traceback of an error, not only its message.",
        )
        for section, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, section)
        self.own_flags = parser.add_method_arguments(
            DetoxTrainer, self.verb, as_group=False, skip=MADE_HERE
        )
        if "weights_only" in self.own_flags:
            parser.set_defaults({"weights_only": True})  # Lightning trusts checkpoints from http
        reword(parser)
        cast(Parser, parser).keep_whole_numbers()
        if "--help_all" not in self.words:
            cast(Parser, parser).brief = partial(brief_help, parser, self.verb)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, and checks all flags before anything is made from them.

        Raises:
            InputError: If a flag is wrong.
        """
        super().parse_arguments(parser, args)
        DetoxCLI.debug = self.config.debug
        check_flags(self.config)
        self.command = CommandLine(self.words, resumes=self.config.ckpt_path == LAST)

    def before_instantiate_classes(self) -> None:
        """Checks device, strategy and precision; sets the number of threads.

        Raises:
            InputError: If there are no such devices, or strategy or precision don't suit them.
        """
        trainer = self.config.trainer
        quieten_transformers()
        check_devices(trainer)
        strategy = trainer.strategy
        check_strategy(strategy if isinstance(strategy, str) else strategy.class_path)
        check_precision(trainer.precision)  # on a CPU Lightning makes bfloat16 of it
        if threads := self.config.threads:
            torch.set_num_threads(threads)
        # the hyper-parameters; Lightning itself would check all flags again
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        self.config_dump = yaml.safe_load(text)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Makes the trainer, which knows the command line.

        Raises:
            InputError: If Lightning can't make such a trainer.
        """
        is_chosen = self.config.trainer.enable_progress_bar is not None or any(
            isinstance(x, ProgressBar) for x in _as_list(self.config_init.trainer.callbacks)
        )
        if not (is_chosen or sys.stdout.isatty()):  # in a file, lines say the same
            options["enable_progress_bar"] = False
        try:
            trainer = super().instantiate_trainer(**options)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"--trainer: {' '.join(str(error).split())}") from error
        check_precision(trainer.precision, "trainer.plugins")  # the flag itself was checked
        trainer.command = self.command  # type: ignore[attr-defined]
        return trainer

    def after_instantiate_classes(self) -> None:
        """Chooses the checkpoint; refuses a run that would do nothing, or not what its flags say.

        Raises:
            InputError: If there is no such checkpoint, or if a callback or a flag can't do what it
                says.
        """
        verb = "predict" if self.verb == "compare" else self.verb  # it logs nothing, either
        if (name := self.config.ckpt_path) is not None:
            weights_only = self.config.get("weights_only")
            # fast_dev_run has put other loggers in their place
            given = _as_list(self.config_init.trainer.logger)
            loggers = [x for x in given if isinstance(x, Logger)]
            self.config.ckpt_path = choose_checkpoint(
                verb, self.trainer, name, loggers or self.trainer.loggers, weights_only
            )
        if verb == "fit":
            check_loop(self.trainer, self.model)
        if verb != "export":
            refuse_nothing(self.trainer, verb)
        if verb not in ("fit", "export"):
            log_beside(self.trainer, verb, self.config.ckpt_path)
        refuse_unwritable_logs(self.trainer.loggers)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the command."""
        options = {name: self.config[name] for name in self.own_flags}
        if isinstance(self.model, PPOModule) and subcommand != "export":
            self.model.evaluator.judge.check_labels()  # before all rows are encoded
        if subcommand == "test" and isinstance(self.model, PPOModule):
            options["verbose"] = False  # its report prints a table in place of Lightning's long one
        is_fit = subcommand == "fit"
        with fit_folders(self.trainer, self.config.ckpt_path) if is_fit else nullcontext():
            getattr(self.trainer, subcommand)(self.model, datamodule=self.datamodule, **options)

    def _add_instantiators(self) -> None:
        """Makes objects other than model and data so that an error names its reason."""
        super()._add_instantiators()
        self.instantiator = Instantiator()
        self.parser.add_instantiator(self.instantiator, object)

    def instantiate_classes(self) -> None:
        """Makes model, data and trainer; an error names what can't be made."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if self.instantiator.refusal is None:
                raise
            raise self.instantiator.refusal from error


def _as_list(value: Any) -> list[Any]:
    """Returns what a flag that takes one or several objects has got."""
    return value if isinstance(value, list) else [value]
