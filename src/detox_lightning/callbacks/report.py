"""Writes the results of ``test``, and prints a short table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.callbacks.identity_test import IdentityTest
from detox_lightning.errors import InputError
from detox_lightning.evaluation.best_of import against_best_of
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.evaluation.rewriting import summarize_baselines
from detox_lightning.evaluation.statistics import CONFIDENCE, RESAMPLES, summarize
from detox_lightning.protocols import Stage, as_stage, data_of
from detox_lightning.redaction import without_secrets
from detox_lightning.report.curves import read_curves
from detox_lightning.report.page import counted
from detox_lightning.report.report_files import (
    agreement_table,
    short_table,
    write_agreement,
    write_files,
)
from detox_lightning.report.sheet import make_sheet
from detox_lightning.runs.provenance import origin
from detox_lightning.runs.run_folders import (
    atomic_folder,
    is_trial,
    output_folder,
    refuse_occupied,
    refuse_unwritable,
    run_folder,
)


class ReportCallback(Callback):
    """Writes what ``test`` has found.

    A comparison becomes figures with intervals, every response and a report; scores that were
    learned become figures and a picture of how far they can be taken for the data's.
    """

    def __init__(self, folder: str | None = None, sheet: PositiveInt | None = None):
        """Sets what is written, and where.

        Args:
            folder: A new or empty folder; null: ``test`` in the folder of the run whose checkpoint
                is tested, with a number if that exists already.
            sheet: Write sheet.csv, on which people judge the responses to so many prompts without
                knowing which are from after training; sheet-key.json says so, and judge-sheet reads
                both. null: none.
        """
        self.folder, self.sheet = folder, sheet
        self.written: Path | None = None
        self.points: list[dict[str, Any]] = []  # of checkpoints that were tested before
        self.identity: IdentityTest | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a folder that is not empty or not writable, before a model is opened."""
        ppo = as_stage(pl_module)
        if getattr(trainer, "others", ()) and ppo is not None and ppo.about.get("samples", 2) < 2:
            raise InputError(
                "--ckpt_path: the report shows several checkpoints beside the best of n samples; "
                "give --model.evaluation.samples 16, or at least 2"
            )
        if getattr(trainer, "others", ()) and ppo is not None and ppo.rollouts is None:
            raise InputError("--ckpt_path: only a test of PPO shows several checkpoints; give one")
        if stage == "test" and self.sheet and (ppo is None or ppo.rollouts is None):
            raise InputError(
                f"report.sheet={self.sheet}: only a test of PPO compares responses that people can "
                "judge; leave it out"
            )
        if stage == "test" and self.folder is not None:
            refuse_occupied(Path(self.folder), f"report.folder={self.folder}")
            self._refuse_unwritable(trainer, pl_module, Path(self.folder).absolute())
        if stage == "test" and self.identity is None:
            self.identity = IdentityTest.of(pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Forgets what a test has found that has failed."""
        self.points, self.identity = [], None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses the run's folder if it is not writable: only now is the run known."""
        if self.folder is None:
            run = run_folder(trainer, trainer.ckpt_path)  # asks all processes
            self._refuse_unwritable(trainer, pl_module, run / "test")

    def _refuse_unwritable(self, trainer: Trainer, module: object, folder: Path) -> None:
        stage = as_stage(module)
        reports = stage is not None and (stage.rollouts is not None or stage.learns_scores)
        if trainer.is_global_zero and reports:
            refuse_unwritable(folder.parent, f"report.folder={self.folder or folder}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, in one process, and prints the table."""
        stage = as_stage(pl_module)
        if stage is None or (stage.comparison is None and not stage.agreement):
            self.identity = None
            return
        if trainer.ckpt_path in getattr(trainer, "others", ()):
            if stage.comparison is not None:
                self.points.append(_point(trainer, stage, stage.comparison))
            return
        run = run_folder(trainer, trainer.ckpt_path)
        folder = output_folder("report.folder", self.folder, run / "test").absolute()
        more: dict[str, Any] = {"checkpoints": self.points}
        if self.identity is not None and not is_trial(trainer):
            more["identity"] = self.identity.run(pl_module, trainer.is_global_zero)
        if trainer.is_global_zero:
            table, write, what = _result(trainer, stage, run, more, self.sheet)
            outcome = f"{what}: {folder}"
            if is_trial(trainer):
                outcome = "trainer.fast_dev_run: no report is written"
            else:
                with atomic_folder(folder) as partial:
                    write(partial)
            print(f"\n{table}\n\n{outcome}")
        self.written, self.points, self.identity = folder, [], None
        trainer.strategy.barrier("report")


def _result(
    trainer: Trainer, stage: Stage, run: Path, more: dict[str, Any], rows: int | None
) -> tuple[str, Callable[[Path], None], str]:
    """Returns a table of what was found, what writes the files, and what they are."""
    comparison = stage.comparison
    if comparison is None:
        about, found = _about(trainer), stage.agreement
        what = "All figures, and how true the scores are (reliability.png)"
        return agreement_table(found), lambda folder: write_agreement(folder, about, found), what
    facts = {"prompts": len(comparison.prompts), **stage.about}
    about = _about(trainer, **facts, confidence=CONFIDENCE, resamples=RESAMPLES)
    summary = {
        "about": about,
        "figures": summarize(comparison, stage.seed),
        "best_of": against_best_of(comparison, stage.seed),
        "rewriting": summarize_baselines(comparison, stage.seed),
        **more,
    }
    sheet = make_sheet(comparison, about, stage.seed, rows) if rows else None
    what = "All figures, responses and a report"
    if rows:
        what += f", and a sheet for people ({counted(len(sheet.rows) if sheet else 0, 'row')})"

    def write(folder: Path) -> None:
        write_files(folder, summary, comparison, read_curves(run))
        if sheet is not None:
            sheet.write(folder)

    return short_table(summary), write, what


def _point(trainer: Trainer, stage: Stage, comparison: Comparison) -> dict[str, Any]:
    """Returns the figures after training of a checkpoint that is not the last one."""
    figures = next(iter(summarize(comparison, stage.seed, intervals=False).values()))
    values = {name: figure["after"] for name, figure in figures.items()}
    return {"checkpoint": str(trainer.ckpt_path), "rollouts": stage.rollouts, **values}


def _about(trainer: Trainer, **facts: Any) -> dict[str, Any]:
    """Returns the facts of a test: what was tested and how, with which versions."""
    data, made = data_of(trainer), origin(trainer)
    about = {
        "command": made["command"],
        "created": made["created"],
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "data": ", ".join(data.sources if data else []) or None,
        **facts,
        "versions": made["versions"],
    }
    return cast("dict[str, Any]", without_secrets(about))
