"""Names out of data and configurations: none leads a file elsewhere, or breaks a line."""

import csv
from pathlib import Path

import pytest

from bad_input.cases import Case, Place, check
from command import run

PLACES = {
    "--trainer.logger.name": "fit",
    "--trainer.logger.save_dir": "fit",
    "--trainer.logger.version": "fit",
    "--export.folder": "fit",
    "--checkpoint.dirpath": "fit",
    "--checkpoint.filename": "fit",
    "--report.folder": "test",
    "--predictions.file": "predict",
    "--data.source": "fit",
    "--model.policy": "fit",
}


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.quick(3)
@pytest.mark.parametrize("flag", PLACES)
def test_a_zero_byte_is_in_no_name(flag: str, place: Place) -> None:
    message = f"{flag}='a\\x00b': it contains a zero byte; take it out"
    check(Case(flag, (f"{flag}=a\0b",), message, verb=PLACES[flag]), place)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", " "])
def test_a_reward_s_name_can_be_printed(name: str, place: Place) -> None:
    message = (
        f"model.reward: a reward is named {name!r}, and logged by that: give it a name that can be "
        "printed on a line (a ClassifierReward or FunctionReward by its option name)"
    )
    check(Case(name, (f"--model.reward.name={name}",), message), place)


@pytest.mark.slow
def test_a_reward_s_name_is_no_path(place: Place) -> None:
    """It names a column and a curve, and no file, whatever is in it."""
    name = '../../../x,"y'
    loggers = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs")
    plain = ("--trainer.logger.name=plain", "--model.reward.name=x")
    hostile = ("--trainer.logger.name=hostile", f"--model.reward.name={name}")
    for words in (plain, hostile):
        assert run("fit", "--config", place.recipe, *loggers, *words).code == 0
    logs = place.folder / "logs"
    assert files(logs / "hostile") == files(logs / "plain") != set()
    assert {file.split("/")[0] for file in files(logs)} == {"plain", "hostile"}
    assert not list(place.folder.parent.glob("x*"))
    with (logs / "hostile" / "version_0" / "metrics.csv").open(newline="") as lines:
        assert f"rewards/{name}" in next(csv.reader(lines))


@pytest.mark.parametrize(
    "flag",
    ["--config=a\x1b[2Jb", "--model=a\x1b[2Jb", "--ckpt_path=a\x1b[2Jb"],
)
def test_an_error_steers_no_terminal(flag: str, place: Place) -> None:
    outcome = run("fit", "--config", place.recipe, flag)
    assert outcome.code == 2
    assert r"a\x1b[2Jb" in outcome.errors[0]
    assert "\x1b" not in outcome.err
