"""What a GPU would refuse, and what the host would wait for, on the pretended one."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import detox_lightning
from pretended.gpu import NAME

# the size of what they return depends on values, or they return a value
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2"}
WAITING |= {"unique_dim", "unique_consecutive", "unique_dim_consecutive", "repeat_interleave"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
OURS = f"{Path(detox_lightning.__file__).parent}{os.sep}"


def is_ours(x: Any) -> bool:
    """Whether a tensor is on the pretended GPU."""
    return isinstance(x, Tensor) and x.device.type == NAME


class Watch(TorchDispatchMode):
    """Refuses tensors of two devices beside each other, as CUDA does, and counts waits.

    Attributes:
        waits: Waits so far, by the product's function that asked.
        captures: The shapes of the inputs of each captured step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.captures: list[str] = []
        self.is_capturing = False
        self.library = torch.library.Library("aten", "IMPL")
        self.library.impl("_copy_from", self.copy, "PrivateUse1")

    def copy(self, source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        """Copies between devices: all copies between host and pretended GPU come here."""
        if source.numel() == 0:
            return target
        if not is_ours(target):
            self.wait("copy to the host")
        elif not is_ours(source) and (self.is_capturing or not non_blocking):
            self.wait("copy from the host")
        torch.ops.pretended.copy(source, target)
        return target

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(map(is_ours, leaves)):
            self.look_at(function.overloadpacket.__name__, leaves, args)
        return function(*args, **kwargs)

    def look_at(self, name: str, leaves: list[Tensor], args: Any) -> None:
        """Looks at a call with a tensor on the pretended GPU among its arguments."""
        if name in WAITING:
            self.wait(name)
        elif name in INDEXING:
            indices = [x for x in args[1] if isinstance(x, Tensor)]
            if not all(map(is_ours, indices)):
                self.wait("index on the host")
            # a mask becomes indices, unless it is filled with a single number
            if any(x.dtype == torch.bool for x in indices) and not (
                len(args) > 2 and args[2].numel() == 1
            ):
                self.wait("index by a mask")
            leaves = [args[0], *args[2:3]]
        if name in ("copy_", "_to_copy", "_copy_from"):
            return
        if hosts := [x.shape for x in leaves if not is_ours(x) and x.dim() > 0]:
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device; on the CPU: {hosts}"
            )

    def wait(self, what: str) -> None:
        """Notes that the host waits, or raises inside a capture."""
        if self.is_capturing:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits[asked_by()] += 1

    def capture(self, step: Callable[..., Any], inputs: list[Tensor], *_: Any) -> Any:
        """Stands in for :func:`cuda_graph.capture`: later calls find and leave all in its place."""
        self.captures.append(str([tuple(x.shape) for x in inputs]))
        self.is_capturing = True
        try:
            outputs = [x.clone() for x in step(*inputs)]
        finally:
            self.is_capturing = False

        def play(*given: Tensor) -> tuple[Tensor, ...]:
            assert [x.data_ptr() for x in given] == [x.data_ptr() for x in inputs]
            for kept, new in zip(outputs, step(*inputs), strict=True):
                kept.copy_(new)
            return tuple(outputs)

        return play


def asked_by() -> str:
    """The innermost function of the product that is running, as ``file function``."""
    frame: Any = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(OURS) and not code.co_name.startswith("<"):
            return f"{Path(code.co_filename.removeprefix(OURS)).as_posix()} {code.co_name}"
        frame = frame.f_back
    return "elsewhere"
