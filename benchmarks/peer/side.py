"""Programs of their own that do rounds when asked."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Side:
    """A program that does rounds when asked."""

    def __init__(self, name: str, python: Path, script: Path, job: dict[str, Any]):
        """Starts it.

        Args:
            name: By which it is spoken of.
            python: Of its environment.
            script: The program.
            job: ``folder`` of models and prompts, ``rounds``, and the benchmark's options, for the
                peer its way to ``generate``.
        """
        self.name = name
        self.log = Path(job["folder"]) / f"{name}.log"
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
        self.answer()  # its models are open
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.process.terminate()
        self.process.communicate()

    def round(self, **order: Any) -> dict[str, Any]:
        """Has it do a round, and gives its row."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that it writes.

        Raises:
            SystemExit: If it has ended; with the end of what it said.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            end = "\n".join(self.log.read_text().splitlines()[-20:])
            raise SystemExit(f"{self.name} has stopped (exit {self.process.wait()}):\n{end}")
        return json.loads(line)


def environment(job: dict[str, Any]) -> dict[str, str]:
    """Variables for a side: the same for both."""
    hidden = {} if job["device"] == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    return {
        **os.environ,
        **hidden,
        "OMP_NUM_THREADS": str(job["threads"]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": f"{job['folder']}/datasets",
    }
