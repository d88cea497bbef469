"""A StopIteration of anybody's hooks ends no run as if it were done."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from command import run
from detox_lightning import __main__
from detox_lightning.errors import TrainingError
from detox_lightning.rewards import Reward
from detox_lightning.runs.end_of_data import EndingCallback
from toys import make_trainer

HERE = Path(__file__).name
LOADER = DataLoader(torch.ones(2, 1), batch_size=1)


def used_up(*_: Any, **__: Any) -> None:
    next(iter(()))


LINE = used_up.__code__.co_firstlineno + 1
AT = rf"\({HERE}, line {LINE}\)"


class Tiny(LightningModule):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.on_step = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, on_step=self.on_step, on_epoch=not self.on_step)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, module: LightningModule, *callbacks: Callback, **options: Any) -> None:
    trainer = make_trainer(
        folder, max_epochs=3, callbacks=[EndingCallback(), *callbacks], **options
    )
    trainer.fit(module, LOADER, LOADER)


BETWEEN = [
    *("on_train_epoch_start", "on_train_epoch_end"),
    *("on_validation_start", "on_validation_epoch_start"),
    *("on_validation_epoch_end", "on_validation_end"),
]


@pytest.mark.parametrize("hook", BETWEEN)
@pytest.mark.parametrize("whose", ["a callback's", "the module's"])
def test_no_hook_between_batches_ends_training_as_done(
    tmp_path: Path, hook: str, whose: str
) -> None:
    module, callback = Tiny(), Callback()
    setattr(module if whose == "the module's" else callback, hook, used_up)
    with pytest.raises(TrainingError, match=rf"^epoch 0: StopIteration was raised {AT}, perhaps"):
        fit(tmp_path, module, callback)


@pytest.mark.parametrize("on_step", [False, True])
def test_nor_does_a_logger(tmp_path: Path, on_step: bool) -> None:
    """Told of the last batch, it would seem to be the end of the epoch."""
    logger, module = CSVLogger(tmp_path), Tiny()
    module.on_step = on_step

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        if step == 1:
            used_up()

    logger.log_metrics = log_metrics  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=rf"^epoch 0: StopIteration was raised {AT}, perhaps"):
        fit(tmp_path, module, logger=logger)


@pytest.mark.parametrize("kind", [StopIteration, GeneratorExit, AssertionError])
def test_what_gives_no_reason_is_told_by_its_place(kind: type[BaseException]) -> None:
    with pytest.raises(kind) as raised:
        raise kind
    line = raised.traceback[-1].lineno + 1
    said = f"{kind.__name__}: raised without a reason ({HERE}, line {line})"
    assert __main__.describe_unforeseen(raised.value).startswith(f"{said} (--debug")
    assert __main__.describe_unforeseen(kind()).startswith(
        f"{kind.__name__}: raised without a reason (--d"
    )
    assert __main__.describe_unforeseen(kind("it is")).startswith(
        f"{kind.__name__}: it is (--debug"
    )


class Unmade(Reward):
    """Can't be made."""

    def __init__(self, why: str | None = None):
        super().__init__()
        if why is not None:
            raise ValueError(why)
        used_up()


@pytest.mark.parametrize("why", [None, "the lexicon is empty"])
def test_a_constructor_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    reward = f"--model.reward={Unmade.__module__}.Unmade"
    options = [] if why is None else [f"--model.reward.why={why}"]
    judge = "--model.evaluation.toxicity_model=demo:classifier"
    outcome = run("fit", "--config", "configs/demo.yaml", judge, reward, *options)
    code, said = 2, f"Unmade can't be made: {why}"
    if why is None:
        code, said = (
            1,
            "Unmade can't be made: its constructor raised StopIteration without a reason ",
        )
        said += f"({HERE}, line {LINE})"
    assert (outcome.code, outcome.errors) == (code, [f"error: {said}"])
