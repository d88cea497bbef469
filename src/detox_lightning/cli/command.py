"""The command line: LightningCLI with this package's defaults.

``python -m detox_lightning {fit,validate,test,predict,export} --config FILE [--flag VALUE …]``
"""

import sys
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import detox_lightning.data
import detox_lightning.modules  # noqa: F401  (so that class_path takes short names)
from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.callbacks.config_copy import ConfigurationCallback
from detox_lightning.callbacks.dashboard import DashboardCallback
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.fault_files import FaultsCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.cli.config_files import check_characters, check_configs
from detox_lightning.cli.flag_checks import check_flags, expand_homes
from detox_lightning.cli.option_loading import guard
from detox_lightning.cli.parser import Parser, made
from detox_lightning.cli.quiet import quieten, quieten_transformers
from detox_lightning.cli.trainer import DetoxTrainer
from detox_lightning.errors import InputError
from detox_lightning.models.precision import check_precision
from detox_lightning.runs.atomic_save import LAST
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.end_of_data import EndingCallback
from detox_lightning.runs.find_checkpoint import choose_checkpoint
from detox_lightning.runs.peer_failure import WatchCallback
from detox_lightning.runs.provenance import OriginCallback
from detox_lightning.runs.resume_callback import ResumeCallback
from detox_lightning.runs.truncate_logs import claim_folders, keep_rows, refuse_unwritable_logs
from detox_lightning.stages.devices import check_devices
from detox_lightning.stages.number_bounds import check_numbers
from detox_lightning.stages.run_checks import check_loop, refuse_nothing
from detox_lightning.stages.strategy import check_strategy

DESCRIPTION = """Makes language models say less that is hateful, by reinforcement learning (PPO), \
and trains what that begins with. Each command takes a configuration: fit --config FILE \
[--flag VALUE ...]; flags win over what stands before them."""
# what a command does, and who says otherwise at length
VERBS = {
    "fit": "Train: supervised, the reward's classifier, or PPO, as --model says.",
    "validate": "Measure on the validation rows.",
    "test": "Compare with the model before training, on the test rows, and write a report.",
    "predict": "Answer prompts, or classify texts, and write a jsonl file.",
    "export": "Write what a checkpoint holds as Hugging Face folders, also while its run goes on.",
}

TRAINER_DEFAULTS = {
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "default", "default_hp_metric": False},
    },
    "callbacks": [  # always there
        ResumeCallback(),
        DashboardCallback(),
        OriginCallback(),
        EndingCallback(),
        FaultsCallback(),  # before the watch, which tells others what went wrong
        WatchCallback(),
    ],
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
}


class DetoxCLI(LightningCLI):
    """LightningCLI in subclass mode, where flags win over what a checkpoint says.

    Attributes:
        debug: Whether the newest command wants errors with their tracebacks.
        begins_anew: Whether the command, given once more, would not go on with its run.
    """

    debug = False
    begins_anew = True

    def __init__(self, args: list[str] | None = None):
        """Parses the command line and runs what it asks for.

        Args:
            args: The command line's words; None for the program's own.
        """
        quieten()
        guard()
        self.words = sys.argv[1:] if args is None else list(args)
        DetoxCLI.debug = "--debug" in self.words  # also while the words are read
        check_configs(self.words)
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
            parser_kwargs={"prog": "python -m detox_lightning", "description": DESCRIPTION},
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
        options["description"] = VERBS[subcommand]
        asked = self.words[0] if self.words else "--help"
        if asked != subcommand and asked in {*self.subcommands(), "-h", "--help"}:
            return self.init_parser(**options)
        if subcommand != "export":
            whole: Any = super()._prepare_subcommand_parser(klass, subcommand, **options)
            whole.keep_whole_numbers()
            whole.set_defaults({"weights_only": True})  # Lightning trusts what comes over http
            return whole
        parser = self.init_parser(**options)
        self._add_arguments(parser)
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="The checkpoint to export, or last."
        )
        self._subcommand_method_arguments[subcommand] = ["ckpt_path"]
        return parser

    def _add_instantiators(self) -> None:
        """As Lightning does it; what else is made says why it can't be."""
        super()._add_instantiators()
        self.parser.add_instantiator(made, object)

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
        parser.add_lightning_class_args(CollapseCallback, "collapse")
        parser.add_lightning_class_args(ReportCallback, "report")
        parser.add_lightning_class_args(PredictionsCallback, "predictions")

    def before_instantiate_classes(self) -> None:
        """Silences libraries, sets the number of threads, refuses trainers that can't work.

        Raises:
            InputError: If there are no such devices, or strategy or precision are none for it.
        """
        DetoxCLI.debug = self.config[self.subcommand].debug
        quieten_transformers()
        config = self.config[self.subcommand]
        check_characters(config)
        check_flags(config)
        check_numbers(config)
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
        try:
            trainer = super().instantiate_trainer(**options)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise InputError(f"--trainer: {' '.join(str(error).split())}") from error
        check_precision(trainer.precision, "trainer.plugins")  # the flag itself is one of ours
        trainer.words = self.words  # type: ignore[attr-defined]
        trainer.begins_anew = self.begins_anew  # type: ignore[attr-defined]
        return trainer

    def after_instantiate_classes(self) -> None:
        """Refuses what Lightning would say later, or in words that lead elsewhere.

        Raises:
            InputError: If there is a callback or a flag that can't do what it says.
        """
        if self.subcommand == "fit":
            check_loop(self.trainer, self.model)
        if self.subcommand != "export":
            refuse_nothing(self.trainer, str(self.subcommand))
        refuse_unwritable_logs(self.trainer.loggers, self.subcommand == "fit")

    def _add_subcommands(self, parser: LightningArgumentParser, **options: Any) -> None:
        """As Lightning does it, and says in our own words what the verbs do."""
        super()._add_subcommands(parser, **options)
        verbs: Any = parser._subcommands_action
        for verb in verbs._choices_actions:
            verb.help = VERBS.get(verb.dest, verb.help)

    def _set_seed(self) -> None:
        """As Lightning does it.

        Raises:
            InputError: If the seed is out of range.
        """
        seed = self.config[self.subcommand].seed_everything
        if seed is not None and not 0 <= seed < 2**32:
            raise InputError(f"--seed_everything={seed}: must be from 0 to {2**32 - 1}, or true")
        super()._set_seed()

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
        expand_homes(config)
        self.begins_anew = config is not None and config.get("ckpt_path") != LAST
        if config is not None and config.get("ckpt_path") is not None:
            choose_checkpoint(verb, config)
