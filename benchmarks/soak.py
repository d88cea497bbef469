"""Measures whether memory, handles or step time grow over an hour of training.

    python benchmarks/soak.py [--seconds 3600] [--json FILE] [--picture FILE]

Runs ``fit`` on the demo by the command line in a process of its own, with everything that the demo
does (validation, checkpoints, TensorBoard, samples), and takes a reading of the process after every
epoch of 20 rollouts. Prints a table. Leaves the first fifth of the rollouts out, and exits with 1
if resident memory grows by 1 MB or more per 100 rollouts (Theil-Sen slope), if open handles,
threads or child processes increase, or if the last quarter's rollouts take over 10 % more CPU
seconds than the first quarter's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from soak.picture import draw
from soak.readings import read_file
from soak.verdict import broken, summarize, table

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
EPOCH = 20  # the demo's rollouts between two validations
EPOCHS = 1_000_000  # more than the time allows
RATE = 1e-4  # the demo's 1e-3 falls within 60 rollouts; held constant, KL passes 20 after 130
READINGS, LOG = "readings.jsonl", "fit.log"


def words(folder: Path, seconds: float, config: Path = DEMO) -> list[str]:
    """Returns the command line of the run.

    Args:
        folder: Folder of the run.
        seconds: Duration of the run.
        config: Recipe of the run.
    """
    minutes, rest = divmod(int(seconds), 60)
    days, hours = divmod(minutes // 60, 24)
    return [
        "fit",
        f"--config={config}",
        f"--trainer.max_time={days:02}:{hours:02}:{minutes % 60:02}:{rest:02}",
        f"--trainer.max_epochs={EPOCHS}",
        f"--model.optimizer.lr={RATE}",
        f"--trainer.logger.init_args.save_dir={folder / 'runs'}",
    ]


def train(folder: Path, every: int, arguments: list[str]) -> None:
    """Runs the training in this process.

    Args:
        folder: Folder for the readings.
        every: Rollouts between two readings.
        arguments: The command line of the run.
    """
    from soak.meter import Meter

    from detox_lightning.__main__ import main as run

    meter = Meter(folder / READINGS, every)
    run(arguments, [meter])


def soak(folder: Path, every: int, arguments: list[str]) -> None:
    """Runs the training in a process of its own.

    Args:
        folder: Folder for the readings and the log.
        every: Rollouts between two readings.
        arguments: The command line of the run.

    Raises:
        SystemExit: If the run fails, or the folder has readings already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / READINGS).exists():
        raise SystemExit(f"--folder={folder}: it has readings of another run; name a new folder")
    command = [sys.executable, __file__, f"--folder={folder}", f"--every={every}", "--", *arguments]
    with (folder / LOG).open("w", encoding="utf8") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, env=environment())
    if ended.returncode:
        last = (folder / LOG).read_text(encoding="utf8").strip().splitlines()[-1:]
        raise SystemExit(f"fit ended with {ended.returncode}: {''.join(last)}")


def environment() -> dict[str, str]:
    """Returns environment variables for one thread and no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def read_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=3600, help="seconds of training; default: an hour"
    )
    parser.add_argument("--every", type=int, default=EPOCH, help="rollouts between two readings")
    parser.add_argument("--folder", type=Path, help="for run, log, readings; default: temporary")
    parser.add_argument("--json", type=Path, help="file for figures and readings")
    parser.add_argument("--picture", type=Path, help="file for the picture, PNG")
    parser.add_argument("arguments", nargs="*", help="internal: the command line of the run")
    return parser.parse_args()


def main() -> None:
    """Runs the training, prints the table, and exits with 1 if a bound is broken."""
    options = read_options()
    if options.arguments:
        return train(options.folder, options.every, options.arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        print(f"for {options.seconds:.0f} s; readings go to {folder / READINGS}", flush=True)
        soak(folder, options.every, words(folder, options.seconds))
        readings = read_file(folder / READINGS)
    summary = summarize(readings)
    print(table(summary))
    if options.json is not None:
        result = {**summary, "every": [reading._asdict() for reading in readings]}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    if options.picture is not None:
        draw(readings, options.picture)
    if found := broken(summary):
        raise SystemExit("; ".join(found))
    print("memory, handles and speed are level")


if __name__ == "__main__":
    main()
