"""What the sections share: the device, random models on the disk, and clocks."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peer.world import build

from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from gpu.shapes import Model, Scale

PRECISIONS = {"float32": "float32", "bf16-mixed": "bfloat16"}  # and the dtype of the base
REPEATS = 3  # of a measurement, of which the median counts


@dataclass
class Bench:
    """The device that is measured, and what is made for it only once.

    Attributes:
        device: Where the models work.
        scale: Sizes of models and batches.
        folder: Temporary folder for models, prompts and runs.
        peer_python: Interpreter of an environment with TRL 0.8.6; None: TRL isn't measured.
        dry: Whether figures mean nothing.
    """

    device: torch.device
    scale: Scale
    folder: Path
    peer_python: Path | None = None
    dry: bool = False
    opened: dict[Any, Policy] = field(default_factory=dict)

    @cached_property
    def bandwidth(self) -> float:
        """Bytes of memory that a copy of a large tensor reads and writes in a second."""
        x = torch.ones(self.scale.copied, device=self.device)
        y = torch.empty_like(x)
        return 2 * x.nbytes / self.seconds(lambda: y.copy_(x), 10)

    def products(self, dtype: torch.dtype) -> float:
        """Floating point operations in a second of a large matrix product."""
        side = self.scale.product
        x = torch.ones(side, side, device=self.device, dtype=dtype)
        return 2 * side**3 / self.seconds(lambda: x @ x, 5)

    def seconds(self, work: Callable[[], Any], times: int = 1) -> float:
        """Median seconds of a call, after one that warms up."""
        work()
        found = []
        for _ in range(REPEATS):
            start = self.now()
            for _ in range(times):
                work()
            found.append((self.now() - start) / times)
        return median(found)

    def now(self) -> float:
        """The time when the device has done all of its work."""
        torch.get_device_module(self.device).synchronize()
        return time.perf_counter()

    def held_mb(self) -> float | None:
        """Memory that tensors take on a GPU, without garbage; None on a CPU."""
        gc.collect()
        if self.device.type == "cpu":
            return None
        module = torch.get_device_module(self.device)
        module.empty_cache()
        return module.memory_allocated() / 2**20

    def world(self, model: Model) -> Path:
        """The folder with a model, a classifier and prompts; the first call makes them."""
        folder = self.folder / model.name
        if not folder.exists():
            folder.mkdir()
            prompts = max(self.scale.batches) * max(self.scale.rollouts.values())
            build(folder, model.shape, prompts, self.scale.prompt, make_policy=model.make)
        return folder

    def policy(self, model: Model, precision: str) -> Policy:
        """A model with an adapter that isn't 0. Only the one that was asked for last is kept."""
        key = model.name, precision
        if key not in self.opened:
            self.free()
            name = str(self.world(model) / "policy")
            source = ModelSource.resolve(name, weights=Weights(dtype=PRECISIONS[precision]))
            lora = LoRA(r=16, alpha=16, dropout=0.05, target_modules=list(model.adapted))
            longest = self.scale.tokens
            policy = load_policy(source, lora, Sampling(longest, min_new_tokens=longest))
            for part, parameter in policy.named_parameters():
                if "lora_B" in part:
                    torch.nn.init.normal_(parameter.data, std=0.02)
            self.opened[key] = policy.to(self.device)
        return self.opened[key]

    def free(self) -> None:
        """Lets the model of :meth:`policy` go."""
        self.opened.clear()
        self.held_mb()

    def prompts(self, policy: Policy, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random prompts ``[rows, s]`` and their mask, padded on the policy's side."""
        few, most = self.scale.prompt
        draw = torch.Generator().manual_seed(rows)
        lengths = torch.randint(few, most + 1, (rows, 1), generator=draw)
        lengths[0] = most
        vocabulary = policy.base.config.vocab_size
        ids = torch.randint(4, vocabulary, (rows, most), generator=draw)
        mask = torch.arange(most) < lengths
        if policy.family.padding_side == "left":
            mask = mask.flip(1)
        return ids.to(self.device), mask.to(self.device)


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Computes without gradients, and with Lightning's autocast if the precision asks for it."""
    cast: AbstractContextManager[Any] = nullcontext()
    if precision == "bf16-mixed":
        cast = torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    with torch.no_grad(), cast:
        yield
