"""A function of tensors, recorded as the calls of torch's functions that it makes."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from detox_lightning.models.decoding.decoder import Step, writable_tensors

CHECKED_CALLS = 2  # the first has the inputs of the recording, the second has others


class RecordedStep:
    """Repeats a step's calls of torch's functions without the model's Python code.

    The same functions get the same arguments, so results are the same to the last bit. Weights are
    held by reference: what they hold when the step is called counts. The first calls are compared
    with the step itself, which takes over for good if there is a difference.

    Attributes:
        replay: The recorded calls as one function; None if the step can't be recorded.
    """

    def __init__(self, step: Step, inputs: list[Tensor]):
        """Records a step.

        Args:
            step: What it does may depend on the shapes of its inputs alone; to call it twice
                changes nothing.
            inputs: Arguments to record it with; it writes to them as it always does.
        """
        self.step = step
        self.replay = _record(step, inputs)
        self.checks_left = CHECKED_CALLS

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Replays the step with inputs of the same shapes."""
        if self.replay is None:
            return self.step(*inputs)
        with torch.inference_mode():  # saves what autograd does at each call
            outputs = self.replay(*inputs)
        if not self.checks_left:
            return outputs
        self.checks_left -= 1
        expected = self.step(*inputs)
        if not all(map(torch.equal, outputs, expected)):
            self.replay = None
        return expected


class _CallRecorder(TorchFunctionMode):
    """Writes calls of torch's functions into a graph.

    Attributes:
        graph: The calls; its placeholders are the inputs, then the weights.
        weights: Tensors that were there before and are not among the inputs.
        writes: The calls that write to one of their arguments.
    """

    def __init__(self, inputs: list[Tensor]):
        super().__init__()
        self.graph = Graph()
        self.weights: list[Tensor] = []
        self.writes: set[Node] = set()
        self._nodes: dict[int, Node] = {}  # by the tensor's id
        self._alive: list[Tensor] = []  # so that no id is taken twice
        for number, x in enumerate(inputs):
            self._register(x, self.graph.placeholder(f"input_{number}"))

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        versions = [x._version for x in inputs]
        outputs = function(*args, **kwargs)
        writes = versions != [x._version for x in inputs]
        if writes or any(all(x is not y for y in inputs) for x in _tensors(outputs)):
            self._write(function, args, kwargs, outputs, writes)
        return outputs

    def _write(
        self, function: Any, args: Any, kwargs: dict[str, Any], outputs: Any, writes: bool
    ) -> None:
        if function.__name__ == "__get__":  # a property's, which a graph can't name
            function, args = getattr, (*args[:1], function.__self__.__name__)
        nodes, named = map_aggregate(args, self.node), map_aggregate(kwargs, self.node)
        call = self.graph.call_function(function, nodes, named)
        if writes:
            self.writes.add(call)
        if isinstance(outputs, Tensor):
            self._register(outputs, call)
            return
        for place, x in enumerate(outputs or ()):
            if isinstance(x, Tensor):
                item = self.graph.call_function(operator.getitem, (call, place))
                self._register(x, item)

    def node(self, x: Any) -> Any:
        """A tensor's node in the graph; any other value as it is."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._nodes:
            self._register(x, self.graph.placeholder(f"weight_{len(self.weights)}"))
            self.weights.append(x)
        return self._nodes[id(x)]

    def _register(self, x: Tensor, node: Node) -> None:
        self._nodes[id(x)] = node
        self._alive.append(x)


class _ValuesRefused(TorchDispatchMode):
    """Inside the block, an operation that reads a tensor's values raises a RuntimeError."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError(f"{function} reads values")
        return function(*args, **(kwargs or {}))


def _record(step: Step, inputs: list[Tensor]) -> Step | None:
    """The calls that a step makes, as one function; None if they depend on more than shapes."""
    try:
        with writable_tensors(), _ValuesRefused(), _CallRecorder(inputs) as recorder:
            outputs = step(*inputs)
        graph, weights = recorder.graph, recorder.weights
        graph.output(tuple(map(recorder.node, outputs)))
        kept = {"placeholder", "output"}
        graph.eliminate_dead_code(lambda node: node.op in kept or node in recorder.writes)
        forward: Callable[..., Any] = GraphModule({}, graph).forward
    except Exception:  # whatever a model's code or torch comes up with: the step itself goes on
        return None
    return lambda *inputs: forward(*inputs, *weights)


def _tensors(values: Any) -> list[Tensor]:
    """The tensors among values, however deep."""
    found: list[Tensor] = []
    map_aggregate(values, lambda x: found.append(x) if isinstance(x, Tensor) else None)
    return found
