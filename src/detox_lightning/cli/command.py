"""The command line: LightningCLI with this package's defaults.

``python -m detox_lightning {fit,validate,test,predict,export} --config FILE [--flag VALUE …]``
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

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
from detox_lightning.cli.config_checks import check_configs
from detox_lightning.cli.config_files import guard_readers
from detox_lightning.cli.flag_checks import check_flags
from detox_lightning.cli.parser import Parser, instantiate
from detox_lightning.cli.process import isolated, quieten_transformers
from detox_lightning.cli.trainer import DetoxTrainer
from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision
from detox_lightning.modules import PPOModule
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.end_of_data import EndingCallback
from detox_lightning.runs.find_checkpoint import choose_checkpoint
from detox_lightning.runs.peer_failure import PeerFailureCallback
from detox_lightning.runs.provenance import CommandLine, OriginCallback
from detox_lightning.runs.resume_callback import ResumeCallback, begin_fit
from detox_lightning.runs.truncate_logs import refuse_unwritable_logs
from detox_lightning.stages.devices import check_devices
from detox_lightning.stages.run_checks import check_loop, refuse_nothing
from detox_lightning.stages.strategy import check_strategy

DESCRIPTION = (
    "Trains language models to write less toxic text by reinforcement learning (PPO), and the "
    "models that this starts from. Each command takes one or several configurations: fit --config "
    "FILE [--flag VALUE ...]. A flag wins over the files and flags before it."
)
COMMANDS = {
    "fit": "Train: supervised, a reward's classifier, or PPO, whichever --model names.",
    "validate": "Measure a model on the validation rows.",
    "test": "Compare a model with the one before training on the test rows, and write a report.",
    "predict": "Answer prompts, or classify texts, and write the results to a JSONL file.",
    "export": "Write a checkpoint's model as Hugging Face folders, even while its run goes on.",
}
SECTIONS = {
    "checkpoint": BoundedCheckpoint,
    "export": ExportCallback,
    "samples": SamplesCallback,
    "collapse": CollapseCallback,
    "report": ReportCallback,
    "predictions": PredictionsCallback,
}


def trainer_defaults(callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Makes the trainer's defaults anew for each run, since callbacks keep its state.

    Args:
        callbacks: Callbacks to add to those that every run has.
    """
    return {
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "default", "default_hp_metric": False},
        },
        "callbacks": [
            ResumeCallback(),
            DashboardCallback(),
            NarrationCallback(),
            OriginCallback(),
            EndingCallback(),
            FaultsCallback(),  # before the next one, which ends other processes
            PeerFailureCallback(),
            *callbacks,
        ],
        "enable_model_summary": False,  # it counts the reward's classifier as well
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }


class DetoxCLI(LightningCLI):
    """Runs one command; its flags win over the hyper-parameters in a checkpoint.

    Attributes:
        debug: Whether the newest command wants errors with their tracebacks.
    """

    debug = False

    def __init__(self, args: list[str] | None = None, callbacks: Sequence[Callback] = ()):
        """Parses the command line and runs the command.

        Args:
            args: The command line's words; None for the program's own.
            callbacks: Callbacks for this run besides those that its flags name.
        """
        self.words = sys.argv[1:] if args is None else list(args)
        DetoxCLI.debug = "--debug" in self.words  # also while the words are read
        guard_readers()
        check_configs(self.words)
        with isolated():
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_class=DetoxTrainer,
                auto_configure_optimizers=False,
                trainer_defaults=trainer_defaults(callbacks),
                save_config_callback=ConfigurationCallback,
                parser_kwargs={"prog": "python -m detox_lightning", "description": DESCRIPTION},
                parser_class=Parser,
                args=args,
            )

    # -- before anything is made

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands and ``export``."""
        return {**LightningCLI.subcommands(), "export": {"model", "datamodule"}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed, with a help text of our own."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=42,
            help="Seed of all random numbers; true: a random one; false: none is set.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds two flags, and a section for each callback that has options."""
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line, and checks all flags before anything is made of them.

        Raises:
            InputError: If a flag is wrong.
        """
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        DetoxCLI.debug = config.debug
        check_flags(config)
        self.command = CommandLine(self.words, resumes=config.get("ckpt_path") == LAST)

    # -- what is made, and what is done with it

    def before_instantiate_classes(self) -> None:
        """Checks device, strategy and precision, and sets the number of threads.

        Raises:
            InputError: If there are no such devices, or strategy or precision don't suit them.
        """
        config = self.config[self.subcommand]
        quieten_transformers()
        check_devices(config.trainer)
        strategy = config.trainer.strategy
        check_strategy(strategy if isinstance(strategy, str) else strategy.class_path)
        check_precision(config.trainer.precision)  # on a CPU Lightning makes bfloat16 of it
        if threads := config.threads:
            torch.set_num_threads(threads)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Makes the trainer, which knows the command line.

        Raises:
            InputError: If Lightning can't make such a trainer.
        """
        if not sys.stdout.isatty():  # a bar would be a mess in a file, and lines tell the same
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
        """Chooses the checkpoint; refuses runs that would do nothing, or not what their flags say.

        Raises:
            InputError: If there is no such checkpoint, or if a callback or a flag can't do what it
                says.
        """
        config = self.config[self.subcommand]
        if (name := config.get("ckpt_path")) is not None:
            found = choose_checkpoint(
                str(self.subcommand), self.trainer, name, config.get("weights_only")
            )
            config.ckpt_path = self.config_init[self.subcommand].ckpt_path = found
        if self.subcommand == "fit":
            check_loop(self.trainer, self.model)
        if self.subcommand != "export":
            refuse_nothing(self.trainer, str(self.subcommand))
        refuse_unwritable_logs(self.trainer.loggers, self.subcommand == "fit")

    def before_fit(self) -> None:
        """Claims the run's folder, and keeps Lightning from deleting the log of a resumed run."""
        begin_fit(self.trainer, self.config.fit.ckpt_path)

    def test(self, **options: Any) -> None:
        """Runs ``test``; PPO's report prints a table in place of Lightning's long one."""
        verbose = options.pop("verbose", True) and not isinstance(self.model, PPOModule)
        self.trainer.test(verbose=verbose, **options)

    # -- private parts of Lightning

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **options: Any
    ) -> LightningArgumentParser:
        """Builds a command's parser; the parsers of other commands stay empty, to save time.

        Lightning would take the method ``export`` and the section ``export`` for the same.
        """
        options["description"] = COMMANDS[subcommand]
        called = self.words[0] if self.words else "--help"
        if called != subcommand and called in {*self.subcommands(), "-h", "--help"}:
            return self.init_parser(**options)
        if subcommand != "export":
            parser: Any = super()._prepare_subcommand_parser(klass, subcommand, **options)
            parser.keep_whole_numbers()
            parser.set_defaults({"weights_only": True})  # Lightning trusts what comes over http
            return parser
        parser = self.init_parser(**options)
        self._add_arguments(parser)
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="The checkpoint to export, or last."
        )
        self._subcommand_method_arguments[subcommand] = ["ckpt_path"]
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **options: Any) -> None:
        """Says in our own words what the commands do."""
        super()._add_subcommands(parser, **options)
        commands: Any = parser._subcommands_action
        for command in commands._choices_actions:
            command.help = COMMANDS[command.dest]

    def _add_instantiators(self) -> None:
        """Says why an object other than model and data can't be made."""
        super()._add_instantiators()
        self.parser.add_instantiator(instantiate, object)

    def _parse_ckpt_path(self) -> None:
        """Keeps a checkpoint's hyper-parameters from overriding the flags."""
