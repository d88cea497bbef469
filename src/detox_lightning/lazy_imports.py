"""Loads heavy parts of libraries when they are used, not when Lightning is imported.

Lightning imports torch's compiler for a class and a decorator, and with it sympy; it imports
torchmetrics for two classes, and with it matplotlib, scipy and transformers. That took two thirds
of the time of ``fit --help``, and 190 MB. Within :func:`deferred` a few names of those modules come
from stand-ins; any other name loads the whole module.
"""

import gc
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

_COMPILER = "torch._dynamo"
_PLOT = "torchmetrics.utilities.plot"
_STATISTICS = "scipy.stats"


class _Compiled(type):
    def __instancecheck__(cls, thing: object) -> bool:
        compiler = sys.modules.get(_COMPILER)
        return compiler is not None and isinstance(thing, compiler.OptimizedModule)


class _OptimizedModule(metaclass=_Compiled):
    """Stands for torch's in ``isinstance``: before its compiler is loaded nothing is compiled."""


def _disable(function: Callable[..., Any], recursive: bool = True, **_: Any) -> Callable[..., Any]:
    """Keeps the compiler out of a function, as torch does before its compiler is loaded."""
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function, recursive)


def _load_on_call(module: str, name: str) -> Callable[..., Any]:
    """Returns a function whose module loads when it is called."""

    def call(*args: Any, **options: Any) -> Any:
        loaded = sys.modules[module]
        if isinstance(loaded, DeferredModule):
            loaded.load()
        return getattr(loaded, name)(*args, **options)

    return call


# by module and name: how to get what stands for the name until the module loads
_STAND_INS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    _COMPILER: {"OptimizedModule": lambda: _OptimizedModule, "disable": lambda: _disable},
    "torchmetrics": {
        "__version__": lambda: version("torchmetrics"),
        "_logger": lambda: logging.getLogger("torchmetrics"),
        # by way of the checks, since metric alone would import itself in a circle
        "Metric": lambda: import_module("torchmetrics.utilities.checks").Metric,
        "MetricCollection": lambda: import_module("torchmetrics.collections").MetricCollection,
        "MeanMetric": lambda: import_module("torchmetrics.aggregation").MeanMetric,
    },
    _STATISTICS: {"fisher_exact": lambda: _load_on_call(_STATISTICS, "fisher_exact")},  # for nltk
    _PLOT: {
        **{name: lambda: object for name in ("_AX_TYPE", "_CMAP_TYPE", "_PLOT_OUT_TYPE")},
        "plot_single_or_multi_val": lambda: _load_on_call(_PLOT, "plot_single_or_multi_val"),
        "plot_confusion_matrix": lambda: _load_on_call(_PLOT, "plot_confusion_matrix"),
        "plot_curve": lambda: _load_on_call(_PLOT, "plot_curve"),
    },
}


class DeferredModule(ModuleType):
    """A module that runs as soon as it is asked for a name without a stand-in."""

    def __getattr__(self, name: str) -> Any:
        """Returns a name's stand-in, or the name itself."""
        if stand_in := _STAND_INS[self.__name__].get(name):
            return stand_in()
        if name == "__path__":  # every import asks; a module that is no package has none
            raise AttributeError(name)
        self.load()
        return getattr(self, name)

    def load(self) -> None:
        """Turns this into the module that it stands for."""
        loader: Any = self.__loader__
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader.exec_module(self)


class _DeferringFinder(MetaPathFinder, Loader):
    """Makes the modules that have stand-ins without running them; leaves all others alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds a module that has a stand-in; its own loader will run it later."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _STAND_INS else None
        if spec is not None:
            spec.loader, spec.loader_state = self, spec.loader
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module unrun until one of its names is asked for."""
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = spec.loader_state
        module.__class__ = DeferredModule


@contextmanager
def deferred() -> Iterator[None]:
    """Imports the modules that have stand-ins without running them.

    Afterwards torch's compiler is as if nobody had imported it, since torch itself looks whether
    somebody has. Garbage collection pauses meanwhile: imports leave many objects and hardly any
    garbage.
    """
    finder, is_collecting = _DeferringFinder(), gc.isenabled()
    gc.disable()
    import torch  # beforehand: its own modules must find the compiler as they know it

    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if isinstance(sys.modules.get(_COMPILER), DeferredModule):
            del sys.modules[_COMPILER], torch._dynamo
        if is_collecting:
            gc.enable()
