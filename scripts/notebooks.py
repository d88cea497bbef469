"""Runs the notebooks from top to bottom and stores their outputs: ``make notebooks``.

Outputs are stored as a quiet terminal would show them: without progress bars and warnings.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = "parameters"  # the tag of the cell that has all names and sizes
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def run(file: Path, folder: Path, settings: str = "") -> nbformat.NotebookNode:
    """Runs a notebook in a kernel of this interpreter, and returns it with its outputs.

    Args:
        file: The notebook.
        folder: Where it runs, and what it writes goes.
        settings: Python code that runs after the cell of names and sizes, such as ``STEPS = 1``.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(file, as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if PARAMETERS in tags(cell)]
    if settings:
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    # without folders to look in, the kernel is the one that belongs to this interpreter
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, manager, timeout=600, resources=where, record_timing=False, coalesce_streams=True
    )
    return client.execute(env={**os.environ, **QUIET})


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """Returns the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def main() -> None:
    """Runs the notebooks that the arguments name, or all, and stores them with their outputs."""
    for file in [Path(name).resolve() for name in sys.argv[1:]] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(file, Path(folder))
        del notebook.metadata["language_info"]  # this Python's version: it changes with each run
        nbformat.write(notebook, file)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
