"""A graph of 21 nodes with edges at random, the same at every run; all nodes lead to the goal."""

from itertools import count
from random import Random

NODES = "abcdefghijklmnopqrstu"
GOAL = "a"
LONGEST = 10  # nodes on a walk, its two ends included
SHARE = 0.1  # of all possible edges

Edges = dict[str, list[str]]


def draw(seed: int) -> Edges:
    """Draws the nodes that each node leads to; the goal leads nowhere."""
    random = Random(seed)
    edges = {x: [y for y in NODES if x != y and random.random() < SHARE] for x in NODES}
    return {**edges, GOAL: []}


def distances(edges: Edges) -> dict[str, int]:
    """Returns how many nodes the shortest path to the goal has, from each node with a path."""
    found, nodes = {GOAL: 1}, 1
    while nearer := [x for x in edges if x not in found and found.keys() & set(edges[x])]:
        nodes += 1
        found |= dict.fromkeys(nearer, nodes)
    return found


def walk(edges: Edges, start: str, random: Random) -> list[str]:
    """Goes along edges at random, to the goal or for ``LONGEST`` nodes."""
    nodes = [start]
    while nodes[-1] != GOAL and len(nodes) < LONGEST:
        nodes.append(random.choice(edges[nodes[-1]]))
    return nodes


def _is_good(edges: Edges) -> bool:
    """Whether every node has a path to the goal that is short enough for a walk."""
    found = distances(edges)
    return len(found) == len(NODES) and max(found.values()) < LONGEST


EDGES = next(edges for edges in map(draw, count()) if _is_good(edges))
SHORTEST = distances(EDGES)
