"""Curves read back from what the loggers wrote."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from detox_lightning.report.curves import Curves, read_curves


def exactly(curves: Curves) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, round(value, 5)) for step, value in of] for name, of in curves.items()}


def test_scalars_of_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "run")
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"objective/kl": 0.5, "val/toxicity": 0.4}, step=0)
    logger.log_metrics({"objective/kl": 1.5}, step=1)
    logger.experiment.add_text("samples", "| a |", 1)
    logger.save()
    assert exactly(read_curves(Path(logger.log_dir))) == {
        "objective/kl": [(0, 0.5), (1, 1.5)],
        "val/toxicity": [(0, 0.4)],
    }


def test_of_several_files_the_later_value_wins(tmp_path: Path) -> None:
    """As where a run was stopped, and went on from an older checkpoint."""
    for number, steps in enumerate([range(0, 5), range(3, 8)]):
        with SummaryWriter(tmp_path, filename_suffix=f".{number}") as writer:
            for step in steps:
                writer.add_scalar("objective/kl", number + step / 10, step)
    assert len(list(tmp_path.iterdir())) == 2
    values = [0, 0.1, 0.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    assert exactly(read_curves(tmp_path)) == {"objective/kl": list(enumerate(values))}


def test_within_a_file_the_later_value_wins_and_steps_are_sorted(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for step, value in [(2, 0.2), (0, 0.0), (2, 9.0), (1, 0.1)]:
            writer.add_scalar("val/kl", value, step)
    assert exactly(read_curves(tmp_path)) == {"val/kl": [(0, 0.0), (1, 0.1), (2, 9.0)]}


def test_long_curves_are_whole(tmp_path: Path) -> None:
    """By itself TensorBoard keeps a sample of 10,000 points."""
    with SummaryWriter(tmp_path) as writer:
        for step in range(10_100):
            writer.add_scalar("objective/kl", step, step)
    assert read_curves(tmp_path)["objective/kl"] == [(step, step) for step in range(10_100)]


def test_a_csv_logger_s_file(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "run")
    logger.log_metrics({"objective/kl": 0.5, "val/toxicity": 0.4, "hp_metric": -1}, step=0)
    logger.log_metrics({"objective/kl": float("nan")}, step=1)
    logger.log_metrics({"objective/kl": 2.5, "val/score": -1.0}, step=2)
    logger.log_metrics({"val/score": 3.0}, step=2)
    logger.save()
    curves = read_curves(Path(logger.log_dir))
    assert [step for step, _ in curves["objective/kl"]] == [0, 1, 2]
    assert curves.pop("objective/kl")[2] == (2, 2.5)
    assert curves == {"val/toxicity": [(0, 0.4)], "val/score": [(2, 3.0)]}


def test_tensorboard_is_asked_first(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("objective/kl,step\n1.0,0\n")
    assert read_curves(tmp_path) == {"objective/kl": [(0, 1.0)]}
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("objective/kl", 2.0, 7)
    assert read_curves(tmp_path) == {"objective/kl": [(7, 2.0)]}


@pytest.mark.parametrize("name", [".", "missing"])
def test_without_logs_there_are_no_curves(tmp_path: Path, name: str) -> None:
    assert read_curves(tmp_path / name) == {}
