"""Compares a rollout step of this package with TRL's PPOTrainer on the same work.

    python benchmarks/peer.py [--shape tiny|small|base] [--generate batch single] [--rounds 7]

Makes a random T5, a random classifier and prompts of 100 to 300 tokens. Both sides do rounds in
turns: ours by ``fit`` on the command line, the peer by the notebooks' loop in an environment of its
own, which the first call installs. In each round, both sides get the same prompts, sample responses
of the same length, score prompts with responses, and update. Prints medians of undisturbed rounds
and ratios (higher is better for us), as a table and as a line of JSON. Exits with 1 if the sides
didn't do the same work.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peer.rounds import OURS, Round, differences, remark, summarize, table, with_rates
from peer.world import SHAPES, build

PARTS = Path(__file__).with_suffix("")
CACHE = Path.home() / ".cache" / "detox_lightning" / "peer"
WARM_UP = 2  # rounds that are left out
SETTINGS = (
    "device",
    "dtype",
    "threads",
    "batch_size",
    "mini_batch_size",
    "micro_batch_size",
    "ppo_epochs",
    "new_tokens",
)


class Side:
    """A program that does a round when it gets an order."""

    def __init__(self, name: str, python: Path, job: dict[str, Any]):
        """Starts the program.

        Args:
            name: ``ours``, or anything else for the peer.
            python: Interpreter of the program's environment.
            job: The ``folder`` of models and prompts, the number of ``rounds``, the benchmark's
                options and, for the peer, how to ``generate``.
        """
        self.name = name
        self.log = Path(job["folder"]) / f"{name}.log"
        script = PARTS / ("ours.py" if name == OURS else "theirs.py")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), str(script), json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(job),
            )

    def __enter__(self) -> "Side":
        self.answer()  # the program has opened its models
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.process.terminate()
        self.process.communicate()

    def round(self, **order: Any) -> dict[str, Any]:
        """Orders a round, and returns its figures."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Returns the next line that the program writes.

        Raises:
            SystemExit: If the program has ended; the message has the end of its log.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            end = "\n".join(self.log.read_text().splitlines()[-20:])
            raise SystemExit(f"{self.name} has stopped (exit {self.process.wait()}):\n{end}")
        return json.loads(line)


def environment(job: dict[str, Any]) -> dict[str, str]:
    """Returns the environment variables, which are the same for both sides."""
    hidden = {} if job["device"] == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    return {
        **os.environ,
        **hidden,
        "OMP_NUM_THREADS": str(job["threads"]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": f"{job['folder']}/datasets",
    }


def install() -> Path:
    """Installs the peer's environment if it doesn't exist, and returns its interpreter."""
    pins = PARTS / "requirements.txt"
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / key
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"installing the peer into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        words = [str(python), "-m", "pip", "install", "--quiet", "-r", str(pins)]
        subprocess.run(words, check=True, stdout=sys.stderr)
        done.touch()
    return python


def measure(job: dict[str, Any], ways: list[str], peer_python: Path) -> list[Round]:
    """Does rounds of all sides in turns, and returns them without the warm-up.

    Args:
        job: See :class:`Side`.
        ways: How the peer generates: one side for each.
        peer_python: The peer's interpreter.
    """
    rounds = []
    with ExitStack() as stack:
        ours = stack.enter_context(Side(OURS, Path(sys.executable), job))
        theirs = [
            stack.enter_context(Side(f"TRL {way}", peer_python, {**job, "generate": way}))
            for way in ways
        ]
        for number in range(job["rounds"]):
            rows = {OURS: ours.round()}
            prompts = rows[OURS].pop("prompts")
            rows |= {side.name: side.round(prompts=prompts) for side in theirs}
            if number >= WARM_UP:
                rounds.append({side: with_rates(row) for side, row in rows.items()})
    return rounds


def read_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--mini_batch_size", type=int, default=4)
    parser.add_argument(
        "--micro_batch_size",
        type=int,
        help="responses per forward pass of our update, to save memory; default: the mini-batch",
    )
    parser.add_argument("--ppo_epochs", type=int, default=1)
    parser.add_argument("--new_tokens", type=int, default=100, help="tokens of every response")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    parser.add_argument(
        "--generate",
        nargs="+",
        choices=["batch", "single"],
        default=["batch"],
        help="how the peer samples: one call for all prompts, or one call per prompt",
    )
    parser.add_argument(
        "--peer_python", type=Path, help="interpreter of an environment with the peer"
    )
    parser.add_argument("--json", type=Path, help="file for the result and all rounds")
    return parser.parse_args()


def main() -> None:
    """Measures, prints, and exits with 1 if the sides did different work."""
    options = read_options()
    python = options.peer_python or install()
    settings = {key: getattr(options, key) for key in SETTINGS}
    shape, count = SHAPES[options.shape], options.rounds + WARM_UP
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), shape, count * options.batch_size)
        job = {**settings, "folder": folder, "rounds": count}
        rounds = measure(job, options.generate, python)
    summary = summarize(rounds, options.threads)
    wrong = differences(rounds, options.batch_size, options.new_tokens, shape.vocabulary)
    result = {"shape": options.shape, **settings, **summary, "differences": wrong}
    print(
        ", ".join(f"{key} {value}" for key, value in {"shape": options.shape, **settings}.items())
    )
    print(f"{remark(summary)}\n{table(summary)}\n{json.dumps(result)}")
    if options.json is not None:
        options.json.write_text(json.dumps({**result, "every": rounds}, indent=1) + "\n")
    if wrong:
        raise SystemExit("the sides did not do the same work:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
