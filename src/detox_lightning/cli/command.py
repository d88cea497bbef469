"""The command line: LightningCLI with this package's defaults."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import yaml
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

import detox_lightning.data  # noqa: F401  (so that class_path takes short names)
from detox_lightning.callbacks.config_copy import ConfigurationCallback
from detox_lightning.cli.brief_help import ASKING, brief_help, reword
from detox_lightning.cli.config_files import check_configs, guard_readers
from detox_lightning.cli.flag_checks import check_flags
from detox_lightning.cli.parser import Instantiator, Parser
from detox_lightning.cli.process import few_tries, float32_products, isolated, quieten_transformers
from detox_lightning.cli.run_config import with_run_config
from detox_lightning.cli.trainer import (
    CALLBACKS,
    DEFAULTS,
    LOGGER,
    SECTIONS,
    DetoxTrainer,
    prepare,
    running,
)
from detox_lightning.cli.verbs import COMMANDS, PROGRAM, choose_command
from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.provenance import CommandLine
from detox_lightning.stages.devices import check_devices, choose_accelerator
from detox_lightning.stages.strategy import check_strategy

_LOGGER = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": LOGGER}
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
        own_callbacks = [*(kind() for kind in CALLBACKS), *callbacks]
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
                trainer_defaults={"logger": _LOGGER, **DEFAULTS, "callbacks": own_callbacks},
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
            with few_tries(), float32_products(self.config.matmul_precision):
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
        """Adds three flags, a section for each callback that has options, and the command's own."""
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of one operation; null: one per core. Use 1 for tiny models: with "
            "more threads, any other load on the machine makes them many times slower.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="How exactly float32 matrices are multiplied. highest: in float32; high: on "
            "recent GPUs in TF32, which keeps 11 significant bits of a number; medium: as torch "
            "says (torch.set_float32_matmul_precision). With high and medium, "
            "log-probabilities are computed once more after sampling, as they are in bfloat16.",
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
        """Parses the command line; InputError, before anything is made, if a flag is wrong."""
        super().parse_arguments(parser, args)
        DetoxCLI.debug = self.config.debug
        check_flags(self.config)
        self.command = CommandLine(self.words, resumes=self.config.ckpt_path == LAST)

    def before_instantiate_classes(self) -> None:
        """Sets the number of threads; InputError if device, strategy or precision can't be."""
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
        """Makes the trainer, which knows the command line; InputError if Lightning can't."""
        is_chosen = self.config.trainer.enable_progress_bar is not None or any(
            isinstance(x, ProgressBar) for x in _as_list(self.config_init.trainer.callbacks)
        )
        if not is_chosen:
            options["enable_progress_bar"] = sys.stdout.isatty()
        options["accelerator"] = choose_accelerator(self.config_init.trainer.accelerator)
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
        """Chooses the checkpoint and where it logs; see :func:`prepare`."""
        # fast_dev_run has put other loggers in their place
        given = [x for x in _as_list(self.config_init.trainer.logger) if isinstance(x, Logger)]
        loggers = given or self.trainer.loggers
        prepare(self.trainer, self.verb, self.model, self.config, loggers)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the command."""
        options = {name: self.config[name] for name in self.own_flags}
        with running(self.trainer, subcommand, self.model, options):
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
