"""The parts of benchmarks, imported as they are when they run."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from command import ROOT

FOLDER = ROOT / "benchmarks"
PARTS = (
    *("bench", "deadline", "peer_rounds", "report", "runs"),
    *("sections", "shapes", "steps", "targets"),
)


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """The benchmark's parts, and the command."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (ROOT / "docs", FOLDER / "peer", FOLDER):
            patch.syspath_prepend(folder)
        spec = importlib.util.spec_from_file_location("gpu_command", FOLDER / "gpu.py")
        assert spec is not None
        assert spec.loader is not None
        command = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(command)
        found = {name: importlib.import_module(f"gpu.{name}") for name in PARTS}
        yield SimpleNamespace(command=command, **found)


@pytest.fixture(scope="module")
def bench(parts: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        yield parts.bench.Bench(torch.device("cpu"), parts.shapes.DRY, folder, dry=True)


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the command changes in its process is as before afterwards."""
    for name in ("TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Lightning sets it
    monkeypatch.setattr(sys, "path", [*sys.path])
    threads, kernels = torch.get_num_threads(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.enable_cudnn_sdp(kernels)
