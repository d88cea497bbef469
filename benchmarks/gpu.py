"""Measures how fast a GPU is with this package, and checks what it computes.

    python benchmarks/gpu.py [--sections step rollout] [--json FILE] [--table FILE]
    python benchmarks/gpu.py --device cpu --dry_run

For users who want to know how fast their card is, and for developers. Needs no downloads: models
and prompts are random. Measures decode steps against the time to read the weights once, rollouts of
``fit`` with a T5 of FLAN-T5-base's shape and a Llama of 360 million parameters, their memory, what
the host waits for, whether captured steps give the same tokens, whether runs resume exactly, and,
with ``--peer_python``, TRL 0.8.6 on the same work. Prints each row at once, and at the end which
targets are met. A row that fails is named, and the next one is measured. After ``--seconds``
nothing more is measured, and the rest is named. ``--dry_run`` tries everything with tiny models, so
that its figures mean nothing.
"""

import argparse
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
NAMES = ("machine", "step", "rollout", "equality", "update", "resume", "peer")
UNCAPTURED = "can't be captured"  # part of the package's warning
FAILED = "failed:"  # begins a remark


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Writes all output of this process and its children into a file instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        for number in (1, 2):  # for children, and for who has kept the old streams
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def outcome(work: Callable[[], Any], deadline: Any, log: Path) -> dict[str, Any]:
    """Measures a row; if it fails or takes too long, its remark says so.

    Args:
        work: Returns the row.
        deadline: Ends the work.
        log: File for its output.
    """
    from gpu.deadline import TimeUp
    from gpu.report import REMARK

    try:
        with quiet(log), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            row = deadline.call(work)
        slow = [str(warning.message) for warning in told if UNCAPTURED in str(warning.message)]
        return {**row, REMARK: slow[0] if slow else ""}
    except (TimeUp, Exception, SystemExit) as error:  # the other rows are measured
        if deadline.left <= 0:  # some code words any exception anew, TimeUp too
            return {REMARK: "no time left"}
        traceback.print_exc()
        reason = " ".join(str(error).split()) or "without a reason"
        return {REMARK: f"{FAILED} {type(error).__name__}: {reason[:200]}"}


def measure(bench: Any, names: list[str], deadline: Any, report: Any) -> int:
    """Measures all rows of some sections, and returns how many failed.

    Args:
        bench: What is measured.
        names: The sections.
        deadline: Ends the work.
        report: Takes the rows.
    """
    from gpu.report import REMARK
    from gpu.sections import SECTIONS

    failed = 0
    for name in names:
        section = SECTIONS[name]
        for case in section.cases(bench):
            row = outcome(case.work, deadline, bench.folder / "log")
            report.add(name, section.table, {**case.labels, **row})
            failed += row[REMARK].startswith(FAILED)
    return failed


def read_options(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="tiny models: does everything work?"
    )
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=NAMES,
        help="what to measure, in this order; default: all (peer only with --peer_python)",
    )
    parser.add_argument(
        "--seconds", type=float, default=470, help="after these, nothing more is measured"
    )
    parser.add_argument(
        "--peer_python", type=Path, help="interpreter of an environment with TRL 0.8.6"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--table", type=Path, help="file for the tables, in Markdown")
    options = parser.parse_args(words)
    if options.sections is None:
        options.sections = [name for name in NAMES if name != "peer" or options.peer_python]
    if "peer" in options.sections and not (options.peer_python and options.peer_python.exists()):
        parser.error(
            "--sections peer needs --peer_python, the interpreter of an environment "
            "with TRL 0.8.6 (benchmarks/peer/requirements.txt)"
        )
    return options


def main(words: list[str] | None = None) -> None:
    """Measures, and prints tables, targets and a sentence for users."""
    options = read_options(words)
    sys.path += [str(FOLDER / "peer"), str(FOLDER.parent / "docs")]  # for ours.py and memory.py
    from gpu.deadline import Deadline

    deadline = Deadline(options.seconds)
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/datasets"
        run(options, Path(folder), deadline)


def run(options: argparse.Namespace, folder: Path, deadline: Any) -> None:
    """Measures what the options ask for, with files in a temporary folder."""
    import torch
    from gpu.bench import Bench
    from gpu.report import Report
    from gpu.shapes import DRY, FULL
    from gpu.targets import TABLE, answer, targets

    from detox_lightning.stages.devices import choose_kernels

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device=cuda: torch sees no GPU here; --device cpu --dry_run needs none")
    choose_kernels()  # as a run does
    scale = FULL
    if options.dry_run:
        scale = DRY
        torch.set_num_threads(1)  # more would slow tiny models down
    device = torch.device(options.device)
    bench = Bench(device, scale, folder, options.peer_python, options.dry_run)
    report = Report(options.json, options.table)
    failed = measure(bench, options.sections, deadline, report)
    for target in targets(report, bench):
        report.add("targets", TABLE, target.row)
    report.say("", answer(report, bench))
    if failed:
        raise SystemExit(f"{failed} rows failed")


if __name__ == "__main__":
    main()
