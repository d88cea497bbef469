"""Heavy parts of libraries that load when they are used, not when Lightning is imported.

Lightning wants one class of torch's compiler and two of torchmetrics, and gets sympy, matplotlib,
scipy and transformers with them: more than half of the time until ``--help``.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any

StandIns = Mapping[str, Callable[[], Any]]


class _Compiled(type):
    """What ``isinstance`` asks: nothing is compiled before torch's compiler is loaded."""

    def __instancecheck__(cls, thing: object) -> bool:
        compiler = sys.modules.get("torch._dynamo")
        return compiler is not None and isinstance(thing, compiler.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """Stands for ``torch._dynamo.OptimizedModule`` where instances are told from others."""


def disable(function, recursive=True, reason=None):
    import torch
    return torch._disable_dynamo(function, recursive)


def forward(module: str, function: str) -> Callable[..., Any]:
    """A function that imports what it does when it is called.

    Args:
        module: Where the function is.
        function: Its name.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        real = sys.modules[module]
        if isinstance(real, DeferredModule):
            real.load()
        return getattr(real, function)(*args, **kwargs)

    return call


PLOT = "torchmetrics.utilities.plot"
# What is at hand of a module before it is loaded.
DEFERRED: dict[str, StandIns] = {
    "torch._dynamo": {
        "OptimizedModule": lambda: OptimizedModule,
        "disable": lambda: disable,
    },
    "torchmetrics": {
        "__version__": lambda: version("torchmetrics"),
        "_logger": lambda: logging.getLogger("torchmetrics"),
        "Metric": lambda: import_module("torchmetrics.utilities.checks").Metric,
        "MetricCollection": lambda: import_module("torchmetrics.collections").MetricCollection,
        "MeanMetric": lambda: import_module("torchmetrics.aggregation").MeanMetric,
    },
    PLOT: {
        "_AX_TYPE": lambda: object,
        "_CMAP_TYPE": lambda: object,
        "_PLOT_OUT_TYPE": lambda: object,
        "plot_single_or_multi_val": lambda: forward(PLOT, "plot_single_or_multi_val"),
        "plot_confusion_matrix": lambda: forward(PLOT, "plot_confusion_matrix"),
        "plot_curve": lambda: forward(PLOT, "plot_curve"),
    },
}


class DeferredModule(ModuleType):
    """A module that is executed when a name is asked for that has no stand-in."""

    def __getattr__(self, name: str) -> Any:
        if stand_in := DEFERRED[self.__name__].get(name):
            return stand_in()
        if name.startswith("__"):
            raise AttributeError(name)
        self.load()
        return getattr(self, name)

    def load(self) -> None:
        """Makes it the module that it would have been."""
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)


class DeferringLoader(Loader):
    def __init__(self, loader): self.loader = loader
    def create_module(self, spec): return None
    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        module.__class__ = DeferredModule


class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in DEFERRED: return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader = DeferringLoader(spec.loader)
        return spec


@contextmanager
def deferred():
    f = Finder()
    import gc
    gc.disable()
    import torch
    sys.meta_path.insert(0, f)
    try:
        yield
    finally:
        gc.enable()
        sys.meta_path.remove(f)
        m = sys.modules.get("torch._dynamo")
        if isinstance(m, DeferredModule):
            del sys.modules["torch._dynamo"]
            del torch._dynamo
