"""How far two computations of one number may be apart, from the arithmetic and not from a machine.

Where a test says that two ways give the same number, it computes both in float64
(:func:`in_float64`) and compares to :data:`EXACT`. Where float32 itself is tried, or numbers were
recorded in it, :func:`rounding` bounds the difference.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Float64's rounding is 2.2e-16. The tests' models sum fewer than 10^4 terms one after the other,
# of sizes below 100; a gradient may be another 10^4 times more sensitive. A wrong token, mask or
# position changes more than the fourth digit.
EXACT = 1e-8


def rounding(count: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """How far two ways to compute one number can be apart.

    A number that ``count`` roundings lead to, each of at most ``u = eps / 2`` and as often up as
    down, is off by more than ``6 sqrt(count) u`` of its terms' size once in some 10^7 times
    (Higham & Mary, *A new approach to probabilistic rounding error analysis*, 2019, theorem 2.4).
    Two ways are apart by twice that.

    Args:
        count: Roundings on the way to the number: the terms of its sums.
        size: The size of its terms.
        dtype: The type it is computed in.
    """
    return 6 * count**0.5 * torch.finfo(dtype).eps * size


def float32(tokens: int) -> float:
    """:func:`rounding` of a sum of log-probabilities by one of the tests' models.

    Each comes out of six sublayers of sums of at most 64 terms, and a sum over 200 words, all of
    sizes below 10.
    """
    return rounding(tokens * (6 * 64 + 200), size=10)


# A logit, a log-probability or a value.
FLOAT32 = float32(1)


class _Float64(TorchFunctionMode):
    """Takes float64 wherever float32 is asked for by name."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = tuple(_wider(x) for x in args)
        return function(*args, **{name: _wider(x) for name, x in (kwargs or {}).items()})


class NoFloatingSums(TorchFunctionMode):
    """Refuses what some versions of torch refuse on a GPU with ``trainer.deterministic``."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("cumsum", "cumsum_", "histc", "put_") and args[0].is_floating_point():
            raise RuntimeError(f"{name} does not have a deterministic implementation")
        return function(*args, **(kwargs or {}))


def _wider(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x


@contextmanager
def in_float64(*modules: nn.Module) -> Iterator[None]:
    """Computes everything in float64, what models and this package do in float32, too.

    T5's norms, the softmax of attention, all logits and the value head are float32 whatever a
    model's type is. What gradient checkpointing computes again in a backward pass stays as it was.

    Args:
        modules: Their weights are float64 within, and what they were before behind it.
    """
    tensors = {id(x): x for m in modules for x in (*m.parameters(), *m.buffers())}.values()
    narrow = [(x, x.data) for x in tensors if x.dtype == torch.float32]
    for tensor, data in narrow:
        tensor.data = data.double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(default)
        for tensor, data in narrow:
            tensor.data, tensor.grad = data, None
