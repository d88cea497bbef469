"""A device that torch and Lightning take for a GPU; its memory is the host's, and it is slow."""

import hashlib
import os
import subprocess
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

NAME = "pretended"
SOURCE = Path(__file__).with_name("device.cpp")
COMPILER = which(os.environ.get("CXX", "g++"))
ROOT = Path(torch.__file__).parent


def build(folder: Path) -> Path:
    """The device's library in a folder, made unless this source and this torch made it before."""
    assert COMPILER is not None
    key = hashlib.sha256(f"{torch.__version__} {SOURCE.read_text()}".encode()).hexdigest()
    library = folder / f"pretended-{key[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        include = ROOT / "include"
        subprocess.run(
            [
                *(COMPILER, "-std=c++20", "-O0", "-w", "-fPIC", "-shared"),
                *(f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"),
                *(str(SOURCE), "-o", str(unfinished)),
                *(f"-L{ROOT / 'lib'}", "-ltorch_cpu", "-lc10"),
            ],
            check=True,
        )
        unfinished.replace(library)
    return library


def register(library: Path) -> torch.device:
    """Makes the device known to torch, for the rest of the process."""
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    module: Any = ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None  # its random numbers are the CPU's
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device(NAME, 0)


class PretendedGPU(Accelerator):
    """What Lightning asks of an accelerator."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing is to be set up."""

    def teardown(self) -> None:
        """Nothing is left."""

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


def make_trainer(make: type[Trainer], **options: Any) -> Trainer:
    """A trainer of the class ``make`` on the pretended GPU."""
    strategy = SingleDeviceStrategy(device=torch.device(NAME, 0))
    return make(accelerator=PretendedGPU(), devices=1, strategy=strategy, **options)
