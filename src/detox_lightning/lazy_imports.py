"""Heavy parts of libraries that load when they are used, not when Lightning is imported.

Lightning imports torch's compiler for a class and a decorator, and with it sympy; torchmetrics for
two classes, and with it matplotlib, scipy and transformers. That was two thirds of the time until
``--help``, and 190 MB. Here those names come by a shorter way, and any other one by loading the
whole module, so that nobody misses anything.
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

COMPILER = "torch._dynamo"
PLOT = "torchmetrics.utilities.plot"
STATISTICS = "scipy.stats"


class _Compiled(type):
    def __instancecheck__(cls, thing: object) -> bool:
        compiler = sys.modules.get(COMPILER)
        return compiler is not None and isinstance(thing, compiler.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """Stands for torch's in ``isinstance``: before its compiler is loaded nothing is compiled."""


def disable(function: Callable[..., Any], recursive: bool = True, **_: Any) -> Callable[..., Any]:
    """Keeps the compiler out of a function, in the way torch does it before that is loaded.

    Args:
        function: The function.
        recursive: Whether out of what it calls, too.
    """
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function, recursive)


def used_later(module: str, name: str) -> Callable[..., Any]:
    """A function whose module loads when it is called.

    Args:
        module: The module's name.
        name: The function's.
    """

    def call(*args: Any, **options: Any) -> Any:
        real = sys.modules[module]
        if isinstance(real, DeferredModule):
            real.load()
        return getattr(real, name)(*args, **options)

    return call


# What is at hand of a module that isn't loaded, by name, and how it is got.
STAND_INS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    COMPILER: {"OptimizedModule": lambda: OptimizedModule, "disable": lambda: disable},
    "torchmetrics": {
        "__version__": lambda: version("torchmetrics"),
        "_logger": lambda: logging.getLogger("torchmetrics"),
        # by way of the checks, since metric alone would import itself in a circle
        "Metric": lambda: import_module("torchmetrics.utilities.checks").Metric,
        "MetricCollection": lambda: import_module("torchmetrics.collections").MetricCollection,
        "MeanMetric": lambda: import_module("torchmetrics.aggregation").MeanMetric,
    },
    STATISTICS: {"fisher_exact": lambda: used_later(STATISTICS, "fisher_exact")},  # for nltk
    PLOT: {
        **{name: lambda: object for name in ("_AX_TYPE", "_CMAP_TYPE", "_PLOT_OUT_TYPE")},
        "plot_single_or_multi_val": lambda: used_later(PLOT, "plot_single_or_multi_val"),
        "plot_confusion_matrix": lambda: used_later(PLOT, "plot_confusion_matrix"),
        "plot_curve": lambda: used_later(PLOT, "plot_curve"),
    },
}


class DeferredModule(ModuleType):
    """A module that is run as soon as it is asked for a name that nothing stands in for."""

    def __getattr__(self, name: str) -> Any:
        """Finds what stands for a name, or the name itself."""
        if stand_in := STAND_INS[self.__name__].get(name):
            return stand_in()
        if name == "__path__":  # every import asks; what isn't a package has none
            raise AttributeError(name)
        self.load()
        return getattr(self, name)

    def load(self) -> None:
        """Turns it into the module that it stands for."""
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(self)


class DeferringLoader(Loader):
    """Makes a module without running it."""

    def __init__(self, loader: Loader):
        """Notes who will run it.

        Args:
            loader: The module's own.
        """
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leaves that to the module's own loader.

        Args:
            spec: The module's.
        """
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Puts it off.

        Args:
            module: What would be run.
        """
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        module.__class__ = DeferredModule


class DeferringFinder(MetaPathFinder):
    """Finds the modules of the table, and leaves all others to those who come after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is, if it is one to be put off.

        Args:
            fullname: Its name.
            path: Where its package's modules are.
            target: For other finders.
        """
        if fullname not in STAND_INS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = DeferringLoader(spec.loader)
        return spec


@contextmanager
def deferred() -> Iterator[None]:
    """Within it, the modules of the table are imported, but not run.

    Afterwards torch's compiler is as if nobody had imported it, since torch itself looks whether
    somebody has. Nor is garbage looked for meanwhile: imports leave much, but hardly any garbage.
    """
    finder, collecting = DeferringFinder(), gc.isenabled()
    gc.disable()
    import torch  # beforehand: its own modules are to find the compiler as they know it

    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if isinstance(sys.modules.get(COMPILER), DeferredModule):
            del sys.modules[COMPILER], torch._dynamo
        if collecting:
            gc.enable()
