"""The short help of a command: what most users set, and where the rest is."""

import re
from argparse import SUPPRESS, Action
from importlib import import_module
from typing import Any

from detox_lightning.cli.verbs import PROGRAM, help_page

# classes whose options the help shows and messages know, by the option that names the class
CLASSES = {
    "model": "detox_lightning.modules.PPOModule",
    "model.lora": "detox_lightning.models.lora.LoRA",
    "model.reward": "detox_lightning.rewards.ClassifierReward",
    "model.optimizer": "torch.optim.Adam",
    "data": "detox_lightning.data.DialogueDataModule",
    "trainer": "lightning.pytorch.Trainer",
    "trainer.logger": "lightning.pytorch.loggers.TensorBoardLogger",
}
MODEL = "model.policy model.reward "
LIMITS = "model.sampling.max_new_tokens data.source data.max_prompt_tokens "
EVALUATED = f"{LIMITS} data.eval_batch_size data.num_eval_samples "
JUDGED = "model.evaluation.toxicity_model model.evaluation.toxic_label "
RUN = (
    "trainer.accelerator trainer.devices trainer.precision trainer.logger ckpt_path "
    "seed_everything threads debug "
)
# by command: the options that the help shows
SHOWN = {
    "fit": f"{MODEL} model.lora model.advantage model.kl.coef model.kl.target model.ppo_epochs "
    "model.mini_batch_size model.micro_batch_size model.optimizer.lr model.schedule.name "
    f"{LIMITS} data.batch_size data.num_samples data.num_eval_samples trainer.max_epochs "
    f"trainer.limit_train_batches trainer.val_check_interval {RUN} export.folder",
    "validate": MODEL + JUDGED + EVALUATED + RUN,
    "test": f"{MODEL} model.evaluation.samples {JUDGED} {EVALUATED} {RUN} report.folder "
    "report.sheet",
    "predict": "model.policy model.evaluation.samples model.evaluation.best_of data.predict_source "
    f"{LIMITS} data.eval_batch_size {RUN} predictions.file",
    "compare": "ckpt_path host port open_browser data.predict_source "
    "model.sampling.max_new_tokens trainer.accelerator trainer.precision threads debug",
    "export": f"{MODEL} export.folder export.merged ckpt_path",
}
BEGINNING = {
    "--config FILE": "A YAML file of these options, or a recipe, such as configs/demo.yaml; "
    f"{PROGRAM} --help lists them. Files and flags may be mixed; the last one wins.",
    "--model CLASS": "PPOModule, SupervisedModule or RewardModule.",
    "--data CLASS": "DialogueDataModule, ContinuationDataModule (PPO on any texts) or "
    "LabeledTextDataModule (for RewardModule).",
}
REST = {
    "--model.help=CLASS": "All options of a model.",
    "--model=PPOModule --model.reward.help=CLASS": "All options of a reward: ClassifierReward, "
    "WeightedReward, RougeReward, LengthReward, or one of your own.",
    "--data.help=CLASS": "All options of the data.",
    "--help_all": "All options of the trainer, checkpoints, exports, sample tables and reports.",
    "--print_config": "Print the configuration that files and flags amount to, and exit.",
}
# in place of Lightning's words
WORDS = {
    "model.optimizer.lr": "Learning rate",
    "trainer.accelerator": "cpu, gpu or auto: a CUDA GPU if there is one",
    "trainer.limit_train_batches": "Batches of an epoch: a number, or a share below 1.0",
    "trainer.val_check_interval": "Batches between validations, or a share below 1.0",
    "trainer.logger": "TensorBoardLogger, CSVLogger, WandbLogger, …; false: none",
    "trainer.precision": "32-true, or bf16-mixed on a GPU",
    "ckpt_path": "The checkpoint: a file, the folder of a run, or last, the newest undamaged one "
    "of the newest run in the logger's folder; if there is none yet, fit starts a new run. For "
    "test also several of a run: '[FILE, FILE]', whose report is about the last one and shows the "
    "others; all or RUN/all: the last one and all others. Without --config, the command takes the "
    "run's own configuration",
}
# words that ask for help, as jsonargparse knows them
ASKING = {
    "--help_all": "--help",
    "--model.help": "--model.help=PPOModule",
    "--data.help": "--data.help=DialogueDataModule",
}


def class_options(parser_type: Any) -> dict[str, Action]:
    """Returns the options of the classes that are used most, by full name, without ``--``."""
    found: dict[str, Action] = {}
    for prefix, path in CLASSES.items():
        module, _, name = path.rpartition(".")
        parser = parser_type(exit_on_error=False)
        parser.add_class_arguments(getattr(import_module(module), name), prefix, skip={"params"})
        found = {action.dest: action for action in parser._actions} | found
    return {name: action for name, action in found.items() if "." in name and ".help" not in name}


def class_of(option: str) -> str:
    """Returns the flag that names the class whose option this is: ``--data=DialogueDataModule``."""
    flag = option.partition(".")[0]
    return f"--{flag}={CLASSES[flag].rpartition('.')[2]}"


def reword(parser: Any) -> None:
    """Puts our own words in the place of Lightning's in a command's long help."""
    for action in parser._actions:
        action.help = WORDS.get(action.dest, action.help)
    for group in parser._action_groups:
        if (group.title or "").startswith("A DataModule standardizes"):
            group.title = "The data, by the name of a class"


def brief_help(parser: Any, verb: str) -> str:
    """Returns the help of a command: its parser, and its name."""
    actions = class_options(type(parser)) | {action.dest: action for action in parser._actions}
    lr = actions["model.optimizer"].default["init_args"]["lr"]
    actions["model.optimizer.lr"].default = lr  # PPOModule's, not Adam's
    found = [actions[name] for name in SHOWN[verb].split() if name in actions]
    sections = {
        "what you begin with": BEGINNING,
        "what matters most (=VALUE: the default; model.* is PPOModule's)": dict(map(_row, found)),
        "where the rest is": REST,
    }
    return help_page(parser.usage, parser.description, sections)


def _row(action: Action) -> tuple[str, str]:
    """Returns an option with its default, and the first sentence of its description."""
    name, value = f"--{action.dest}", action.default
    if isinstance(value, str | int | float) and value not in (SUPPRESS, False):
        name += f"={value}"
    words = WORDS.get(action.dest) or action.help or ""
    text = re.sub(r":class:`(\w+)`|``", r"\1", " ".join(words.split()))
    return name, f"{text.partition('. ')[0].rstrip('.')}."
