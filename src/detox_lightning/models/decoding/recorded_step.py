"""A decode step on a CPU: its calls of torch's functions are recorded once and then replayed.

The same functions get the same arguments, so results are the same to the last bit. Weights are held
by reference: a replay uses their current values.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detox_lightning.models.decoding.decoder import Step, writable_tensors

MAX_RECORDED = 32  # shapes: a recording takes memory, and many shapes are rarely seen again
WARM_UP = 20  # calls before a step is recorded: recording costs about as much as 20 replays save
CHECKED_CALLS = 2  # the first has the inputs of the recording, the second has others


class RecordedStep:
    """A step for one shape of inputs, recorded once it has been called :data:`WARM_UP` times.

    The first replays are compared with the step itself, which is used from then on if they differ.

    Attributes:
        replay: The recorded calls as one function; None before, and if they can't be recorded.
        calls: The number of calls so far.
    """

    def __init__(self, step: Step):
        self.step = step
        self.replay: Step | None = None
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the step; all calls have inputs of the same shapes."""
        if self.calls == WARM_UP:
            self.replay = record(self.step, list(inputs))
        self.calls += 1
        if self.replay is None:
            return self.step(*inputs)
        with torch.inference_mode():  # saves the work of autograd at each call
            outputs = self.replay(*inputs)
        if self.calls > WARM_UP + CHECKED_CALLS:
            return outputs
        expected = self.step(*inputs)
        if not all(map(torch.equal, outputs, expected)):
            self.replay = None
        return expected


def record(step: Step, inputs: list[Tensor]) -> Step | None:
    """A step's calls as one function; None if they depend on more than its inputs' shapes."""
    try:
        with writable_tensors(), _ValuesRefused(), _CallRecorder(inputs) as recorder:
            outputs = step(*inputs)
        graph, weights = recorder.graph, recorder.weights
        graph.output(tuple(map(recorder.node, outputs)))
        kept = {"placeholder", "output"}
        graph.eliminate_dead_code(lambda node: node.op in kept or node in recorder.writes)
        forward: Callable[..., Any] = GraphModule({}, graph).forward
    except Exception:  # whatever a model's code or torch raises: the step itself is used
        return None
    return lambda *inputs: forward(*inputs, *weights)


class _CallRecorder(TorchFunctionMode):
    """Writes calls of torch's functions into a graph, whose arguments are inputs, then weights."""

    def __init__(self, inputs: list[Tensor]):
        super().__init__()
        self.graph = Graph()
        self.weights: list[Tensor] = []  # tensors that existed before, other than the inputs
        self.writes: set[Node] = set()  # calls that write to an argument
        # by id; holding the tensor keeps its id from being used again
        self._nodes: dict[int, tuple[Tensor, Node]] = {}
        for number, x in enumerate(inputs):
            self._nodes[id(x)] = x, self.graph.placeholder(f"input_{number}")

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        versions = [x._version for x in inputs]
        outputs = function(*args, **kwargs)
        writes = versions != [x._version for x in inputs]
        found = outputs if isinstance(outputs, tuple | list) else [outputs]
        new = [x for x in found if isinstance(x, Tensor) and all(x is not y for y in inputs)]
        if not writes and not new:
            return outputs
        if function.__name__ == "__get__":  # a property, which a graph can't name
            function, args = getattr, (*args[:1], function.__self__.__name__)
        nodes, named_nodes = map_aggregate((args, kwargs), self.node)
        call = self.graph.call_function(function, nodes, named_nodes)
        if writes:
            self.writes.add(call)
        for place, x in enumerate(found):
            if any(x is y for y in new):
                item = (call, place)
                node = call if x is outputs else self.graph.call_function(operator.getitem, item)
                self._nodes[id(x)] = x, node
        return outputs

    def node(self, x: Any) -> Any:
        """A tensor's node in the graph; any other value as it is."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._nodes:
            self._nodes[id(x)] = x, self.graph.placeholder(f"weight_{len(self.weights)}")
            self.weights.append(x)
        return self._nodes[id(x)][1]


class _ValuesRefused(TorchDispatchMode):
    """Inside the block, an operation that reads a tensor's values raises a RuntimeError."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError(f"{function} reads values")
        return function(*args, **(kwargs or {}))
