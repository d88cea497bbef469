"""What TensorBoard is given beyond curves, read back from its files."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse.typing import PositiveFloat
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest, Status
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from detox_lightning.algorithm.advantages import RLOO
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.callbacks.dashboard import DashboardCallback, hyper_parameters
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.modules import SupervisedModule
from detox_lightning.report.curves import PANELS
from detox_lightning.rewards import ClassifierReward
from ppo_toys import make_module
from toys import make_trainer, pairs_loader

EPOCHS = 2


def fit(folder: Path, module: Any, *loggers: Logger, **options: Any) -> Trainer:
    """Two epochs of one batch, with a validation after each."""
    callbacks = [DashboardCallback()]
    defaults = {"callbacks": callbacks, "max_epochs": EPOCHS, "logger": loggers}
    trainer = make_trainer(folder, **{**defaults, **options})
    trainer.fit(module, pairs_loader(8), pairs_loader(8))
    return trainer


def tensorboard(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, "board", default_hp_metric=False)


def read(folder: Path) -> EventAccumulator:
    run = folder / "board" / "version_0"
    return EventAccumulator(str(run), {"scalars": 0, "tensors": 0}).Reload()


def hparams(events: EventAccumulator, part: str) -> Any:
    content = events.PluginTagToContent("hparams")[f"_hparams_/{part}"]
    return getattr(HParamsPluginData.FromString(content), part)


def shown(folder: Path) -> dict[str, float]:
    """The figures of the only row, as TensorBoard's table shows them."""
    data = MultiplexerDataProvider(EventMultiplexer().AddRunsFromDirectory(str(folder)), "")
    data._multiplexer.Reload()
    request = ListSessionGroupsRequest(slice_size=9, allowed_statuses=Status.values())
    context = Context(TBContext(data_provider=data))
    (row,) = Handler(RequestContext(), context, "", request).run().session_groups
    return {figure.name.tag: figure.value for figure in row.metric_values}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def fitted(folder: Path, tiny_t5: str, tiny_classifier: str) -> Trainer:
    """PPO with two loggers."""
    plan = EvaluationPlan(toxicity_model=tiny_classifier, second_toxicity_model=tiny_classifier)
    module = make_module(tiny_t5, "", kl=KLPenalty(coef=0.125), seed=7, evaluation=plan)
    return fit(folder, module, CSVLogger(folder, "csv"), tensorboard(folder))


@pytest.fixture(scope="module")
def events(folder: Path, fitted: Trainer) -> EventAccumulator:
    return read(folder)


# -- charts


def test_charts_show_the_curves_that_they_name_and_no_others(events: EventAccumulator) -> None:
    (event,) = events.Tensors("custom_scalars__config__")
    (category,) = Layout.FromString(event.tensor_proto.string_val[0]).category
    assert category.title == "detox"
    curves = events.Tags()["scalars"]
    shown = {
        # what the plugin does with a pattern
        chart.title: [[c for c in curves if re.match(tag, c)] for tag in chart.multiline.tag]
        for chart in category.chart
    }
    assert list(shown.values()) == [[[name] for name in panel.names] for panel in PANELS.values()]
    assert {name for (name,) in shown["ROUGE"]} == {f"val/rouge{n}" for n in (1, 2, "L", "Lsum")}
    assert shown["Score"] == [["objective/scores_mean"], ["val/score"]]
    kinds = "toxicity", "toxicity_probability", "second_toxicity"
    assert shown["Toxicity"] == [[f"val/{kind}"] for kind in kinds]


def test_other_stages_have_no_charts_but_a_row(tmp_path: Path, tiny_t5: str) -> None:
    trainer = fit(tmp_path, SupervisedModule(tiny_t5), tensorboard(tmp_path))
    events = read(tmp_path)
    assert events.Tags()["tensors"] == []
    row = hparams(events, "session_start_info").hparams
    assert row["model"].string_value == tiny_t5[:100]
    last = pytest.approx(float(trainer.callback_metrics["val/loss"]), rel=1e-6)
    assert shown(tmp_path)["val/loss"] == last


# -- the table of runs


def test_the_row_has_the_hyper_parameters(events: EventAccumulator, tiny_t5: str) -> None:
    row = hparams(events, "session_start_info").hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in row.items()}
    assert values["policy"] == tiny_t5[:100]
    assert {"kl.coef": 0.125, "lora.r": 4, "ppo_epochs": 2, "seed": 7}.items() <= values.items()
    assert (values["reward"], values["reward.about"]) == ("Liking", "Liking (liking)")
    assert not [name for name in values if name.startswith(("_", "optimizer"))]  # a function


def test_the_row_has_the_final_figures(
    events: EventAccumulator, fitted: Trainer, folder: Path
) -> None:
    columns = [info.name.tag for info in hparams(events, "experiment").metric_infos]
    curves = {name for name in events.Tags()["scalars"] if name.startswith("val/")}
    assert curves >= {"val/toxicity", "val/score", "val/kl", "val/rougeL"}
    assert set(columns) == curves
    assert shown(folder) == {
        name: pytest.approx(float(fitted.callback_metrics[name]), rel=1e-6) for name in columns
    }


def test_what_people_compare_stands_first(events: EventAccumulator) -> None:
    columns = hparams(events, "experiment").hparam_infos
    first = {info.name for info in columns if info.differs}
    assert first == {"kl.coef", "lora.r", "mini_batch_size", "seed"}


def test_curves_have_no_points_besides_their_own(events: EventAccumulator) -> None:
    groups = {name.partition("/")[0] for name in events.Tags()["scalars"]}
    assert not groups & {"hp_metric", "final"}
    assert len(events.Scalars("val/toxicity")) == 1 + EPOCHS
    assert len(events.Scalars("objective/scores_mean")) == EPOCHS


def test_without_validation_there_is_no_row(tmp_path: Path, tiny_t5: str) -> None:
    module = SupervisedModule(tiny_t5)
    fit(tmp_path, module, tensorboard(tmp_path), limit_val_batches=0)
    with pytest.raises(KeyError):
        read(tmp_path).PluginTagToContent("hparams")


class Plain(Logger):
    """What Lightning asks of a logger, and nothing more."""

    name = version = "plain"

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def log_metrics(self, metrics: dict, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any) -> None:
        self.rows.append(params)


def test_loggers_without_a_table_are_left_alone(tmp_path: Path, tiny_t5: str) -> None:
    plain = Plain()
    fit(tmp_path, SupervisedModule(tiny_t5), plain)
    assert len(plain.rows) == 1  # Lightning's own
    assert "lora" in plain.rows[0]


def test_a_trial_run_has_nowhere_to_write(tmp_path: Path, tiny_t5: str) -> None:
    fit(tmp_path, SupervisedModule(tiny_t5), tensorboard(tmp_path), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


# -- names and values


def test_a_configuration_becomes_columns() -> None:
    reward = {"class_path": "any.where.ClassifierReward", "init_args": {"model": "demo:c"}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "betas": [0.9, 0.999]}}
    tree = {
        "policy": "p" * 1000,
        "reward": reward,
        "optimizer": adam,
        "kl": {"coef": 0.2, "target": None},
        "bare": {"class_path": "Bare"},
        "normalize": False,
        "_instantiator": "lightning",
    }
    assert hyper_parameters(tree) == {
        "policy": "p" * 100,
        "reward": "ClassifierReward",
        "reward.model": "demo:c",
        "optimizer": "Adam",
        "optimizer.lr": 1e-3,
        "optimizer.betas": "[0.9, 0.999]",
        "kl.coef": 0.2,
        "bare": "Bare",
        "normalize": "False",
    }


def test_objects_become_the_same_columns() -> None:
    tree = {
        "reward": ClassifierReward("demo:classifier"),
        "optimizer": lambda parameters: torch.optim.Adam(parameters),
        "kl": KLPenalty(coef=PositiveFloat(0.2)),
        "advantage": RLOO(k=3),
        "folder": Path("a/b"),
    }
    row = hyper_parameters(tree)
    assert (row["reward"], row["kl.coef"]) == ("ClassifierReward", 0.2)
    assert row["reward.about"] == "logit of 'nothate' by demo:classifier"
    assert (row["advantage"], row["advantage.responses_per_prompt"]) == ("RLOO", 3)
    assert row["folder"] == "a/b"
    assert not [name for name in row if name.startswith("optimizer")]


def test_secrets_stay_out() -> None:
    options = {"api_key": "x", "token": "x", "model": "m", "max_tokens": 5, "Password": "x"}
    tree = {"reward": {"class_path": "a.Judge", "init_args": options}, "hf_token": "x"}
    row = hyper_parameters(tree)
    assert row == {"reward": "Judge", "reward.model": "m", "reward.max_tokens": 5}
