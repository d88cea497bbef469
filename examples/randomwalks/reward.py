"""What a walk is worth."""

from itertools import pairwise

from examples.randomwalks.graph import EDGES, GOAL, LONGEST, SHORTEST


def optimality(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a shortest path to the goal, less for a longer one, 0 for what is no path to it."""
    return [
        _optimality(f"{start} {rest}".split())
        for start, rest in zip(prompts, responses, strict=True)
    ]


def _optimality(nodes: list[str]) -> float:
    path = nodes[: nodes.index(GOAL) + 1] if GOAL in nodes else []
    steps = pairwise(path)
    if not path or len(path) > LONGEST or any(y not in EDGES.get(x, []) for x, y in steps):
        return 0.0
    return (LONGEST - len(path)) / (LONGEST - SHORTEST[path[0]])
