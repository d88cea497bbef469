"""The package in a Python program: its names, its Trainer, answers, checkpoints."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from peft import AutoPeftModelForSeq2SeqLM, LoraConfig
from torch import nn

import detox_lightning
from command import IdleCLI, tiny_recipe
from conftest import word_tokenizer
from detox_lightning import (
    GAE,
    RLOO,
    ClassifierReward,
    DialogueDataModule,
    EvaluationPlan,
    InputError,
    LengthReward,
    LoRA,
    PPOModule,
    ReportCallback,
    Sampling,
    SupervisedModule,
    Trainer,
    _names,
)
from detox_lightning.cli.command import DetoxCLI

TEXTS = ["Mia : angry and late", "Eve : nice and late"]
FEW = {"accelerator": "cpu", "limit_train_batches": 2, "max_epochs": 1}


def test_names_load_when_they_are_used() -> None:
    program = "import sys, detox_lightning; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    early = set(done.stdout.decode().split())
    assert "detox_lightning" in early
    assert not {"torch", "lightning", "transformers", "detox_lightning._names"} & early


def test_every_name_is_there_and_none_is_forgotten() -> None:
    listed = _names.__all__
    assert sorted(set(listed)) == sorted(listed)
    assert set(listed) == {name for name in vars(_names) if not name.startswith("_")}
    assert all(getattr(detox_lightning, name) is getattr(_names, name) for name in listed)
    assert {*listed, "PPOModule", "Trainer", "__version__"} <= set(dir(detox_lightning))
    with pytest.raises(AttributeError, match="'detox_lightning' has no attribute 'PPO'"):
        detox_lightning.PPO  # noqa: B018


# -- a session


class Session(NamedTuple):
    folder: Path
    model: PPOModule
    data: DialogueDataModule
    trainer: Any
    warnings: list[str]
    make: Callable[[], tuple[PPOModule, DialogueDataModule]]


@pytest.fixture(scope="module")
def session(
    tiny_t5: str, tiny_classifier: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """A fit and a test in a folder of their own."""
    folder = tmp_path_factory.mktemp("session")
    tiny_recipe(folder, tiny_t5, tiny_classifier)  # for its rows

    def make() -> tuple[PPOModule, DialogueDataModule]:
        model = PPOModule(
            Path(tiny_t5),  # type: ignore[arg-type]
            reward=ClassifierReward(tiny_classifier),
            lora={"r": 4},  # type: ignore[arg-type]
            sampling=Sampling(max_new_tokens=6),
            advantage=RLOO(k=2),
            optimizer=partial(torch.optim.Adam, lr=1e-2),
            evaluation=EvaluationPlan(samples=1),
            seed=0,
        )
        return model, DialogueDataModule(folder, min_chars=None, batch_size=8)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        model, data = make()
        trainer = Trainer(**FEW)
        trainer.fit(model, data)
        trainer.test(model, data)
        said = [str(x.message) for x in caught if issubclass(x.category, UserWarning)]
        yield Session(folder, model, data, trainer, said, make)


def test_a_session_has_what_the_command_line_writes(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    run = session.folder / "runs" / "default" / "version_0"
    assert Path(session.trainer.log_dir).absolute() == run
    for name in ("checkpoints/last.ckpt", "adapter/README.md", "test/report.html"):
        assert (run / name).is_file(), name
    assert session.model.rollouts == 2
    assert session.trainer.log_every_n_steps == 1
    assert [x for x in session.warnings if "hparams" in x or "eval mode" in x] == []
    table = pd.DataFrame(session.model.comparison.rows())
    assert len(table) == 2 * 7
    changes = table["toxicity_after"] - table["toxicity_before"]
    assert table["difference"].tolist() == pytest.approx(changes.tolist())
    session.trainer.test(session.model, session.data)
    printed = capsys.readouterr().out
    assert "Toxicity, mean" in printed
    assert "Test metric" not in printed


def test_a_new_session_resumes_the_last_run(session: Session) -> None:
    model, data = session.make()
    trainer = Trainer(**{**FEW, "max_epochs": 2})
    own = trainer.loggers
    trainer.fit(model, datamodule=data, ckpt_path="last")
    assert model.rollouts == 4
    assert trainer.log_dir == session.trainer.log_dir
    for _ in range(2):  # each finds the run, whatever the one before has done with the loggers
        trainer.validate(model, data, ckpt_path="last", verbose=False)
    assert trainer.loggers == own
    assert (Path(trainer.log_dir) / "logs").is_dir()
    (found,) = trainer.predict(model, data, ckpt_path=trainer.log_dir)
    assert len(found) == 7
    trainer.export(model, data, ckpt_path="last")
    assert (Path(trainer.log_dir) / "adapter-last" / "adapter_config.json").is_file()
    with pytest.raises(InputError, match=r"^--ckpt_path no.ckpt: there is no such file"):
        trainer.fit(model, data, ckpt_path="no.ckpt")


def test_the_trainer_and_the_command_line_have_the_same_callbacks(session: Session) -> None:
    report, stop = ReportCallback(folder="mine"), EarlyStopping("val/kl")
    trainer: Any = Trainer(callbacks=[report, stop], logger=CSVLogger("logs"), **FEW)
    kinds = [type(x) for x in trainer.callbacks]
    assert len(set(kinds)) == len(kinds)
    assert report in trainer.callbacks
    assert stop in trainer.callbacks
    assert type(trainer.logger) is CSVLogger
    recipe = tiny_recipe(session.folder, "policy", "classifier")
    cli: Any = IdleCLI(["fit", "--config", recipe]).trainer
    assert {*kinds} - {EarlyStopping} == {type(x) for x in cli.callbacks} - {
        kind for kind in map(type, cli.callbacks) if kind.__name__ == "ConfigurationCallback"
    }


# -- answers


def test_answers_are_those_of_the_exported_adapter(session: Session) -> None:
    answers = session.model.answer(TEXTS)
    assert answers == [session.model.answer(text)[0] for text in TEXTS]  # type: ignore[arg-type]
    adapter = AutoPeftModelForSeq2SeqLM.from_pretrained(f"{session.trainer.log_dir}/adapter")
    tokenizer = word_tokenizer()
    for text, answer in zip(TEXTS, answers, strict=True):
        prompt = session.data.template.format(dialogue=text)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        (found,) = adapter.generate(input_ids=ids, max_new_tokens=6)
        assert tokenizer.decode(found, skip_special_tokens=True) == answer
    before = session.model.answer(TEXTS, before=True)
    assert before != answers
    fresh, data = session.make()
    fresh.configure_model()
    assert fresh.answer(TEXTS, data) == before


def test_texts_that_have_no_answer(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^text 2 of 2 is empty; leave it out$"):
        session.model.answer(["Mia", " "])
    model, data = session.make()
    with pytest.raises(InputError, match=r"^answer: .* give it as answer\(texts, data\)$"):
        model.answer(TEXTS)
    assert len(model.answer(["Mia " * 600], data)) == 1


def test_a_supervised_model_answers(session: Session, tiny_t5: str) -> None:
    model = SupervisedModule(tiny_t5, max_new_tokens=4)
    trainer = Trainer(logger=False, enable_checkpointing=False, **FEW)
    trainer.fit(model, session.data)
    answers = model.answer(TEXTS)
    assert answers == model.answer(TEXTS)  # without dropout
    assert all(answers)
    assert model.model.training


# -- checkpoints


def test_a_checkpoint_opens_without_a_trainer(session: Session) -> None:
    file = f"{session.trainer.log_dir}/checkpoints/previous.ckpt"
    file = file if Path(file).is_file() else session.trainer.checkpoint_callback.last_model_path
    given: Any = {"reward": session.model.reward, "advantage": RLOO(k=2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        opened = PPOModule.load_from_checkpoint(file, **given)
    assert opened.lora == LoRA(r=4)
    assert opened.sampling.max_new_tokens == 6
    assert opened.rollouts >= 2
    assert len(opened.answer(TEXTS, session.data)) == 2
    with pytest.raises(InputError, match=r"^model.reward: None is neither a reward"):
        PPOModule.load_from_checkpoint(file)
    with pytest.raises(InputError, match=r"^--ckpt_path no.ckpt: "):
        PPOModule.load_from_checkpoint("no.ckpt", **given)


def test_a_checkpoint_of_the_command_line_opens(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    cli = DetoxCLI(["fit", "--config", recipe])
    opened = PPOModule.load_from_checkpoint(cli.trainer.checkpoint_callback.last_model_path)
    assert type(opened.reward) is ClassifierReward
    assert opened.answer(TEXTS, cli.datamodule) == cli.model.answer(TEXTS)


# -- what is given by mistake

JUDGED = {"evaluation": {"toxicity_model": "demo:classifier"}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kl": 0.2}, "kl=0.2: give an object, such as KLPenalty(estimator=…)"),
        ({"advantage": "RLOO"}, "advantage='RLOO': give an object, such as GAE()"),
        ({"advantage": GAE}, f"advantage={GAE!r:.60}: give an object, such as GAE()"),
        ({"lora": {"rank": 8}}, "lora.rank: there is no such option"),
        (
            {"lora": {"apha": 8}},
            "lora.apha: there is no such option; did you mean alpha?",
        ),
        ({"lora": LoraConfig(r=8)}, "lora=LoraConfig("),
        ({"schedule": "cosine"}, "schedule='cosine': give an object, such as Schedule(name=…)"),
        (
            {"policy": nn.Linear(1, 1)},
            "model: it must be a name (hub id, folder, file or demo:NAME)"
            ", and is an object of the class Linear; write it with save_pretrained, and give the ",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(given: dict[str, Any], said: str) -> None:
    options: Any = {"policy": "demo:policy", "reward": LengthReward(1, 9), **JUDGED, **given}
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        PPOModule(**options)


def test_mappings_stand_for_groups_of_options() -> None:
    options: Any = {"kl": {"coef": 0.1}, "scores": {"clip": 2.0}, "lora": {"r": 2}, **JUDGED}
    model = PPOModule("demo:policy", lambda responses: [1.0], **options)
    assert (model.kl.coef, model.kl.target, model.shaping.clip) == (0.1, 6.0, 2.0)
    assert model.lora == LoRA(r=2)
    assert not any(isinstance(x, Callback) for x in vars(model).values())
