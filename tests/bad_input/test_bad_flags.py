"""Flags and lines of YAML that make no sense."""
# ruff: noqa: E501 -- messages are to be read whole

import io
import os
import threading
from pathlib import Path

import fsspec
import pytest

from bad_input.cases import Case, Place, check
from command import printed, run
from detox_lightning.cli.config_files import check_configs
from detox_lightning.cli.recipes import recipes
from detox_lightning.errors import InputError

HALF = (
    "T5 and its family overflow in float16, and others' gradients would be clipped at the wrong "
    "size. Give bf16-mixed or 32-true"
)
FLAGS = {
    "--bogus=1": "--bogus: there is no such option",
    "--trainr.max_epochs=3": "--trainr.max_epochs: there is no such option; did you mean "
    "--trainer.max_epochs?",
    "--trainer.max_epoch=3": "--trainer.max_epoch: there is no such option; did you mean "
    "--trainer.max_epochs?",
    "--max_epochs=3": "--max_epochs: there is no such option; did you mean --trainer.max_epochs?",
    "--model.mini_batch_siz=3": "--model.mini_batch_siz: there is no such option; did you mean "
    "--model.mini_batch_size?",
    "--model.kl.cof=1": "--model.kl.cof: there is no such option; did you mean --model.kl.coef?",
    "--model.reward.lable=hate": "--model.reward.lable: there is no such option; did you mean "
    "--model.reward.label?",
    "--model.optimizer.lrr=1": "--model.optimizer.lrr: there is no such option; did you mean "
    "--model.optimizer.lr?",
    "--data.batch_siz=8": "--data.batch_siz: there is no such option; did you mean "
    "--data.batch_size?",
    "--checkpoint.monitr=x": "--checkpoint.monitr: there is no such option; did you mean "
    "--checkpoint.monitor?",
    "--trainer.logger.save_di=x": "--trainer.logger.save_di: there is no such option; did you mean "
    "--trainer.logger.save_dir?",
    "--model=PPOModul": "--model=PPOModul: there is no such class; did you mean PPOModule?",
    "--model=torch.nn.Linear": "--model=torch.nn.Linear: must be the name of a LightningModule, or null",
    "--data=DialogueDataModul": "--data=DialogueDataModul: there is no such class; did you mean "
    "DialogueDataModule?",
    "--data=no.such.Module": "--data=no.such.Module: it can't be imported: no module named 'no'",
    "--model.reward=ClassifierRewrd": "--model.reward=ClassifierRewrd: there is no such class; did you mean "
    "ClassifierReward?",
    "--model.optimizer=Adan": "--model.optimizer=Adan: there is no such class; did you mean Adam?",
    "--model.advantage=GRPPO": "--model.advantage=GRPPO: there is no such class; did you mean GRPO?",
    "--trainer.callbacks+=EarlyStoping": "--trainer.callbacks=EarlyStoping: there is no such class; did you mean "
    "EarlyStopping?",
    "--trainer.callbacks+=EarlyStopping": "--trainer.callbacks.monitor: required, and not given",
    "--model.mini_batch_size=0": "--model.mini_batch_size=0: must be a whole number above 0",
    "--model.kl.coef=-1": "--model.kl.coef=-1: must be a number of at least 0",
    "--model.constraint.measure=kl": "model.constraint: at_least=None, at_most=None: give one of them, the limit of kl",
    "--model.constraint.at_lest=1": "--model.constraint.at_lest: there is no such option; did you mean "
    "--model.constraint.at_least?",
    "--model.constraint.rate=0": "--model.constraint.rate=0: must be a number above 0",
    "--model.kl=3": "--model.kl: must be a mapping of its options, such as {name: value}",
    "--model.kl=null": "--model.kl=null: it is a group of options; leave it out for the defaults, or give the options one by one, as in --model.kl.NAME",
    "--model.sampling.max_new_tokens=a": "--model.sampling.max_new_tokens=a: must be a whole number above 0, or a "
    "list of 2, each a whole number above 0",
    "--model.evaluation.best_of=8": "model.evaluation.best_of=8 is above samples=1: there are too few to choose from; give --model.evaluation.samples 8, or a lower best_of",
    "--model.evaluation.best_of=0": "--model.evaluation.best_of=0: must be a whole number above 0, or null",
    "--model.sampling.max_new_tokens=[5,3]": "sampling.max_new_tokens=[5, 3]: the low end is above the high",
    '--model.sampling.stop_strings=[""]': "sampling.stop_strings: a text is empty, or has \\n as two characters, which flags hand on so; write line breaks into a YAML file",
    "--model.sampling.stop_strings=User": "--model.sampling.stop_strings=User: must be a list, each text",
    "--model.sampling.min_new_tokens=7": "sampling.min_new_tokens=7 is above max_new_tokens=6",
    "--model.sampling.temperature=0": "--model.sampling.temperature=0: must be a number above 0",
    "--model.sampling.top_p=0": "sampling.top_p=0 leaves no token to sample; 1 is all of them",
    "--model.sampling.top_p=1.5": "--model.sampling.top_p=1.5: must be a number from 0 to 1",
    "--model.sampling.top_k=-3": "--model.sampling.top_k=-3: must be a whole number of at least 0",
    "--model.reward.output=odds": "--model.reward.output=odds: must be one of logit, probability, log_odds",
    "--model.optimizer.lr=high": "--model.optimizer.lr=high: must be a number",
    "--model.lora.dropout=1.5": "--model.lora.dropout=1.5: must be a number from 0 to 1",
    "--model.weights.quantization=3bit": "--model.weights.quantization=3bit: must be one of 4bit, 8bit, or null",
    "--model.micro_batch_size=half": "--model.micro_batch_size=half: must be auto, or a whole number "
    "above 0, or null",
    "--model.micro_batch_size=3": "model.mini_batch_size=4 is not a multiple of model.micro_batch_size=3: "
    "change one of them",
    "--data.batch_size=6": "data.batch_size=6 is not a multiple of model.mini_batch_size=4: change "
    "one of them",
    "--data.batch_size=2.5": "--data.batch_size=2.5: must be a whole number above 0",
    "--data.min_chars=-5": "--data.min_chars=-5: must be a whole number of at least 0, or null",
    "--trainer.max_epochs=many": "--trainer.max_epochs=many: must be a whole number, or null",
    "--trainer.precision=15": "--trainer.precision=15: must be one of 64, 32, 16, transformer-engine, "
    "transformer-engine-float16, 16-true, 16-mixed, bf16-true, bf16-mixed, "
    "32-true, 64-true, bf16, or null",
    "--trainer.precision=16-true": f"trainer.precision=16-true: {HALF}",
    "--trainer.accelerator=cuda": "trainer.accelerator=cuda: torch sees no such device here; give cpu or "
    "auto, or check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES",
    "--trainer.devices=0": "trainer.devices=0: give at least 1, -1 for all, or auto",
    "--trainer.devices=-3": "trainer.devices=-3: give how many, a list of them, -1 or auto",
    "--trainer.devices=[a": "trainer.devices=[a: give how many, a list of them, -1 or auto",
    "--trainer.devices=100000": "trainer.devices=100000: each is a process here, and this machine "
    "has 2 cores; give at most 8",
    "--trainer.devices=[3]": "trainer.devices=[3]: on a CPU this is how many processes train; "
    "give a number, such as 1",
    "--trainer.devices=-1": "trainer.devices=-1: on a CPU this is how many processes train; give "
    "a number, such as 1",
    **{
        f"--trainer.accelerator={kind}": f"trainer.accelerator={kind}: this package runs on CPUs "
        "and on CUDA's GPUs (Apple's have no float64, in which tokens are drawn); give one of "
        "auto, cpu, gpu, cuda"
        for kind in ("tpu", "mps")
    },
    "--trainer.precision=16-mixed": f"trainer.precision=16-mixed: {HALF}",
    "--trainer.strategy=deepspeed": "trainer.strategy=deepspeed: DeepSpeed keeps gradients to itself, but "
    "PPO must clip them and may skip a step; with an adapter ZeRO-2 has little "
    "to split, and FSDP2 splits what ZeRO-3 would split. Give sharded "
    "(configs/overlays/fsdp.yaml) or ddp",
    "--seed_everything=-1": "--seed_everything=-1: must be from 0 to 4294967295, or true",
    "--matmul_precision=fast": "--matmul_precision=fast: must be one of highest, high, medium",
    "--threads=0": "--threads=0: must be a whole number above 0, or null",
    "--checkpoint.save_last=null": "checkpoint.save_last=null: a run that is stopped is saved in last.ckpt, "
    "a file of its own; leave it true",
    "--checkpoint.save_top_k=-3": "Invalid value for save_top_k=-3. Must be >= -1",
    "--checkpoint.max_kl=3": "checkpoint.max_kl=3.0: this bounds the best checkpoint; say which is "
    "best with checkpoint.monitor, such as val/toxicity",
    "--ckpt_path=best": "--ckpt_path best: only the run that made it knows it; give the file "
    "that is kept in that run's checkpoints/ beside last.ckpt, or last",
    "--ckpt_path=none.ckpt": "--ckpt_path none.ckpt: there is no such file or folder; give a checkpoint, the folder of a run, or last",
    "--ckpt_path=train.jsonl": "--ckpt_path train.jsonl: this is not a checkpoint, or it is damaged; give a checkpoint, or last",
    "--config": "--config: its value is missing",
    "stray": "stray: this is not an option; options begin with --",
    "-1x": "-1x: this is not an option; options begin with --",
}


@pytest.mark.quick(10)
@pytest.mark.parametrize("flag", FLAGS)
def test_flags_that_make_no_sense(flag: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    check(Case(flag, (flag,), FLAGS[flag]), place)


OPTIONS = "give options by name, such as model: and data:"
FILES = {
    b"": f"it is empty; {OPTIONS}",
    b"- a\n- b\n": f"it is a list; {OPTIONS}",
    b"hello\n": f"it is a single value; {OPTIONS}",
    b"# \xe9t\xe9\n": "byte 2 is not UTF-8; give a YAML file, saved as UTF-8",
    bytes(range(128, 256)): "byte 0 is not UTF-8; give a YAML file, saved as UTF-8",
}
LINES = {
    b"model:\n  a: [1,\ntrainer: 3\n": "line 4: this is not YAML: expected ',' or ']', but got "
    "'<stream end>'; mend the line, or the one before it",
    b"model:\n\tinit_args: 3\n": "line 2: this is not YAML: found character '\\t' that cannot start "
    "any token; mend the line, or the one before it",
    b"data: 3\nmodel: 4\ndata: 5\n": "line 3: data is in line 1 already; merge the two",
    b"a: &x\n  b: 1\n  c: *x\n": "line 1: a.c contains itself; write out the value that the alias stands for",
    b'{\n\t"data":\t3,\n\t"data": 4\n}': "line 3: data is in line 2 already; merge the two",
    b"model:\n  kl: 1\n  kl: 2\n": "line 3: kl is in line 2 already; merge the two",
}
KEYS = {
    b"trainr: {max_epochs: 3}": "--trainr.max_epochs: there is no such option; did you mean "
    "--trainer.max_epochs?",
    b"trainer: {max_epoch: 3}": "--trainer.max_epoch: there is no such option; did you mean "
    "--trainer.max_epochs?",
    b"checkpoint: {monitr: x}": "--checkpoint.monitr: there is no such option; did you mean "
    "--checkpoint.monitor?",
    b"model: {init_args: {mini_batch_siz: 3}}": "--model.mini_batch_siz: there is no such option; "
    "did you mean --model.mini_batch_size?",
    b"model: {init_args: {kl: {cof: 3}}}": "--model.kl.cof: there is no such option; did you mean "
    "--model.kl.coef?",
    b"model: {init_args: {reward: {init_args: {lable: x}}}}": "--model.reward.lable: there is no "
    "such option; did you mean --model.reward.label?",
    b"data: 3": "--data=3: must be the name of a LightningDataModule, or null",
}
CONFIGS = {
    **{text: f"--config=bad.yaml: {message}" for text, message in FILES.items()},
    **{text: f"--config=bad.yaml, {message}" for text, message in LINES.items()},
    **KEYS,
}


@pytest.mark.quick(6)
@pytest.mark.parametrize("text", CONFIGS)
def test_configurations_that_make_no_sense(text: bytes, place: Place) -> None:
    Path("bad.yaml").write_bytes(text)
    check(Case("", ("--config=bad.yaml",), CONFIGS[text]), place)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (".", "this is a folder; give a YAML file"),
        (
            "configs/dema.yaml",
            "there is no such file here, and no such recipe in the package; did you mean "
            "configs/demo.yaml?",
        ),
        (
            "mine",
            "there is no such file here, and no such recipe in the package; its recipes are "
            + ", ".join(recipes()),
        ),
    ],
)
def test_configurations_that_are_not_there(file: str, message: str, place: Place) -> None:
    check(Case("", (f"--config={file}",), f"--config={file}: {message}"), place)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In an empty folder, which is the home too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


HIDDEN = """model: null
trainer:
  logger:
    class_path: CSVLogger
    init_args:
      save_dir: "https://***@h/x"
      name: "***bold***"
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), ()),
        (("--trainer.logger.save_dir=x",), ()),  # the file goes over it
        ((), ("--trainer.logger.name=x",)),
        ((), ("--config=hidden.yaml",)),
    ],
)
def test_a_hidden_secret_is_not_used(
    before: tuple[str, ...], after: tuple[str, ...], elsewhere: Path
) -> None:
    (elsewhere / "hidden.yaml").write_text(HIDDEN)
    outcome = run("fit", *before, "--config=hidden.yaml", *after)
    assert outcome.errors == [
        "error: --config=hidden.yaml, line 6: trainer.logger.save_dir holds ***, which stands for "
        "a secret that was left out; give the secret after this file, by its flag or in another "
        "--config, or delete the line"
    ]
    assert outcome.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.logger.save_dir=mine",),
        ("--trainer.logger.save_dir", "mine"),
        ("--config=other.yaml",),
    ],
)
def test_unless_it_is_given_after_it(words: tuple[str, ...], elsewhere: Path) -> None:
    (elsewhere / "hidden.yaml").write_text(HIDDEN)
    other = HIDDEN.replace("https://***@h/x", "mine")
    (elsewhere / "other.yaml").write_text(other)
    logger = printed("fit", "--config", "hidden.yaml", *words)["trainer"]["logger"]
    assert (logger["init_args"]["save_dir"], logger["init_args"]["name"]) == ("mine", "***bold***")


def test_hidden_within_a_list(elsewhere: Path) -> None:
    (elsewhere / "f").write_text("a:\n- b\n- c: token=***\n")
    with pytest.raises(InputError, match=r"^--config=f, line 3: a\.1\.c holds \*\*\*, which"):
        check_configs(["fit", "--config", "f"])
    (elsewhere / "g").write_text("a: [b]")
    check_configs(["fit", "--config", "f", "--config=g"])


def test_configurations_that_are_no_files_here_are_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("seed_everything: 3"))
    assert printed("fit", "--config", "-")["seed_everything"] == 3
    with fsspec.open("memory://h/x.yaml", "w") as file:
        file.write("seed_everything: 4")
    assert printed("fit", "--config=memory://h/x.yaml")["seed_everything"] == 4
    (elsewhere / "home.yaml").write_text("seed_everything: 5")
    assert printed("fit", "--config=~/home.yaml")["seed_everything"] == 5
    (elsewhere / "tabs.json").write_text('{\n\t"seed_everything":\t6\n}')
    assert printed("fit", "--config=tabs.json")["seed_everything"] == 6
    assert printed("fit", "--config", "seed_everything: 7")["seed_everything"] == 7
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("seed_everything: 8",))
    writer.start()
    assert printed("fit", "--config=pipe")["seed_everything"] == 8
    writer.join()


def test_an_address_that_can_t_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("install aiohttp")

    monkeypatch.setattr("fsspec.open", fail)
    outcome = run("fit", "--config=https://a:b@h/x.yaml")
    assert outcome.errors == [
        "error: --config=https://***@h/x.yaml: can't be read (install aiohttp)"
    ]
    assert outcome.code == 2


def test_commands_that_are_none() -> None:
    verbs = "fit, validate, test, predict, compare, rescore, audit, judge-sheet, export"
    wrong = [f"error: trian: there is no such command; give one of {verbs}"]
    assert run("trian").errors == wrong
    assert run().errors == [
        f"error: which command? Give one of {verbs}; python -m detox_lightning --help explains them"
    ]
    first = "error: --threads=1: the command comes first: python -m detox_lightning fit --threads …"
    assert run("--threads=1", "fit").errors == [first]
    first = f"error: --threads=1: options come after the command; begin with one of {verbs}"
    assert run("--threads=1").errors == [first]
