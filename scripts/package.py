"""Builds the package, installs it in a new environment, and runs the demo outside the repository.

``make package`` runs it. It needs ``build``, which the extra ``dev`` installs.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "detox_lightning"
SMALL = (
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=3"),
    *("--data.num_eval_samples=20", "--trainer.enable_progress_bar=false"),
)


def main() -> None:
    """Builds, checks, installs and tries the package; prints the seconds of each step."""
    with tempfile.TemporaryDirectory() as place:
        work, began = Path(place), time.monotonic()
        steps: list[str] = []

        def done(step: str) -> None:
            steps.append(f"{step} by {time.monotonic() - began:.0f} s")

        wheel = built(work)
        check_contents(wheel)
        done("built")
        python = installed(wheel, work / "venv")
        done("installed")
        try_demo(python, work / "elsewhere")
        done("demo")
    print(f"{wheel.name}: {', '.join(steps)}")


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Returns a command's output; its environment doesn't lead back into the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}")
    return done.stdout


def built(work: Path) -> Path:
    """Builds the wheel from the folder and from the sdist; both are equal, byte for byte."""
    run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", work / "dist", ROOT)
    (sdist,), (wheel,) = ((work / "dist").glob(kind) for kind in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    unpacked = work / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", work / "again", unpacked)
    again = work / "again" / wheel.name
    assert again.read_bytes() == wheel.read_bytes(), "the sdist makes another wheel"
    return wheel


def check_contents(wheel: Path) -> None:
    """Checks that the wheel holds the package, its recipes and its licence, and nothing else."""
    homes = {ROOT / "src" / PACKAGE: PACKAGE, ROOT / "configs": f"{PACKAGE}/configs"}
    wanted = {
        f"{name}/{file.relative_to(home).as_posix()}"
        for home, name in homes.items()
        for file in home.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    about = {name for name in held if ".dist-info/" in name}
    assert held - about == wanted, sorted((held - about) ^ wanted)
    assert {f"{PACKAGE}/py.typed", f"{PACKAGE}/configs/demo.yaml"} <= held
    assert any(name.endswith("licenses/LICENSE") for name in about), sorted(about)


def installed(wheel: Path, folder: Path) -> Path:
    """Installs the wheel into a new environment, and returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = ("--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    run(python, "-m", "pip", "install", *words)
    run(python, "-m", "pip", "check")
    return python


def try_demo(python: Path, folder: Path) -> None:
    """Trains, tests and predicts in an empty folder, with the recipe in the package."""
    folder.mkdir()
    recipe = ("--config", "configs/demo.yaml")
    where = run(python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(python.parents[1]), where
    run(python, "-m", PACKAGE, "fit", *recipe, *SMALL, cwd=folder)
    script = python.with_name("detox-lightning")
    for verb in ("test", "predict"):
        run(script, verb, *recipe, *SMALL, "--ckpt_path=last", cwd=folder)
    (version,) = (folder / "runs" / "demo").glob("version_0")
    for name in ("config.yaml", "adapter/adapter_model.safetensors", "test/report.html"):
        assert (version / name).is_file(), name
    figures = json.loads((version / "test" / "summary.json").read_text())["figures"]
    assert 0 < figures["sampled"]["toxicity"]["before"]["value"] < 1, figures
    (predictions,) = (folder / "runs").rglob("predictions.jsonl")
    assert len(predictions.read_text(encoding="utf8").splitlines()) == 20


if __name__ == "__main__":
    main()
