"""Runs the notebooks from top to bottom, and stores their outputs: ``make notebooks``."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # tiny models are quicker so
    "TQDM_DISABLE": "1",
}


def read(file: Path) -> NotebookNode:
    """Reads a notebook."""
    return nbformat.read(file, as_version=4)


def names_of(notebook: NotebookNode) -> int:
    """Returns the place of the one cell that holds all names and sizes."""
    cells = enumerate(notebook.cells)
    (place,) = [i for i, cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return place


def run(file: Path, folder: Path, settings: str = "") -> NotebookNode:
    """Runs a notebook in a kernel of this interpreter, and returns it with its outputs.

    Args:
        file: The notebook.
        folder: Where it runs, and what it writes goes.
        settings: Code that runs right after the cell of names and sizes, such as ``STEPS = 1``.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = read(file)
    if settings:
        notebook.cells.insert(names_of(notebook) + 1, nbformat.v4.new_code_cell(settings))
    manager = AsyncKernelManager(
        connection_file=str(folder / "kernel.json"),
        # which looks for no installed kernel, and so takes that of this interpreter
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
    )
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, manager, timeout=600, resources=where, record_timing=False)
    return client.execute(env={**os.environ, **ENVIRONMENT, "IPYTHONDIR": str(folder / "ipython")})


def store(file: Path) -> None:
    """Runs a notebook and stores what it shows, without warnings and this machine's folders."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(file, Path(folder))
    del notebook.metadata["language_info"]["version"]  # it would change with each Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    file.write_text(nbformat.writes(notebook).replace(f"{folder}/", "") + "\n", encoding="utf8")


if __name__ == "__main__":
    for named in sys.argv[1:] or NOTEBOOKS:
        store(Path(named))
