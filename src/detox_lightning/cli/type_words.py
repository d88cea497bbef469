"""Describes in plain words what an option must be, and guesses what a misspelt name meant."""

import types
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from inspect import isabstract, isclass
from typing import Any, Literal, Union, get_args, get_origin

NUMBERS = {
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number of at least 0",
    "PositiveFloat": "a number above 0",
    "NonNegativeFloat": "a number of at least 0",
    "ClosedUnitInterval": "a number from 0 to 1",
    "OpenUnitInterval": "a number above 0 and below 1",
    "Tensor": "a number",  # torch takes a tensor as a learning rate, too
}
# names that other programs have for options
SYNONYMS = {"learning_rate": "lr", "epochs": "max_epochs", "gpus": "devices", "dataset": "source"}
BUILTINS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def describe_type(hint: Any) -> str:
    """Describes the values of a type, such as ``a number above 0, or null``.

    Args:
        hint: The type in a signature.
    """
    members = list(_union_members(hint))
    literals = dict.fromkeys(
        str(value) for kind in members if get_origin(kind) is Literal for value in get_args(kind)
    )
    kinds = [("one of " if len(literals) > 1 else "") + ", ".join(literals)] if literals else []
    kinds += [_describe_member(kind) for kind in members if get_origin(kind) is not Literal]
    if BUILTINS[float] in kinds:
        kinds = [kind for kind in kinds if kind != BUILTINS[int]]
    return ", or ".join(dict.fromkeys(kinds))


def class_names(hint: Any) -> list[str]:
    """Returns the short names of the known classes that a type in a signature may name."""
    bases = [
        kind
        for member in _union_members(hint)
        for kind in (member, *get_args(member))
        if isclass(kind) and kind not in (*BUILTINS, Any) and kind.__name__ not in NUMBERS
    ]
    return sorted({kind.__name__ for base in bases for kind in _concrete_subclasses(base)})


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Finds the option that a misspelt one perhaps meant, in the place where it stands.

    ``key`` isn't among the full names, such as ``trainer.max_epoch``; None: nothing resembles it.
    """
    names = [name.split(".") for name in known]
    parts = key.split(".")
    # the first part that is wrong, among its siblings
    for depth, part in enumerate(parts):
        inside = [name for name in names if name[:depth] == parts[:depth]]
        siblings = {name[depth] for name in inside if len(name) > depth}
        if part not in siblings:
            if found := get_close_matches(part, sorted(siblings), n=1, cutoff=0.7):
                return ".".join([*parts[:depth], found[0], *parts[depth + 1 :]])
            break
    return None


def same_last_part(key: str, known: Iterable[str]) -> str | None:
    """Returns the shortest known option that ends as a key does, as ``model.optimizer.lr``."""
    last = key.rpartition(".")[2]
    last = SYNONYMS.get(last, last)
    found = [
        name
        for name in known
        if name != key and (name.rpartition(".")[2] == last or name.startswith(f"{last}_"))
    ]
    return min(found, key=lambda name: name.count("."), default=None)


def _describe_member(kind: Any) -> str:
    """Describes a type that is neither a union nor a literal."""
    origin = get_origin(kind)
    if origin is Callable:
        where = "its file without .py, a dot, and its name"
        return f"the path of a function, such as my_reward.brief ({where})"
    if origin is tuple:
        first, *_, last = get_args(kind)
        number = "" if last is ... else f" of {len(get_args(kind))}"
        return f"a list{number}, each {describe_type(first)}"
    if isclass(origin) and issubclass(origin, Iterable):
        return BUILTINS[dict] if issubclass(origin, dict) else BUILTINS[list]
    name = getattr(kind, "__name__", str(kind))
    return NUMBERS.get(name) or BUILTINS.get(kind) or f"the name of a {name}"


def _union_members(hint: Any) -> Iterator[Any]:
    """Yields the members of a union; of a function that makes an object, what it returns."""
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _union_members(member)
    elif get_origin(hint) is Callable and isclass(made := get_args(hint)[1]):
        yield from [hint] if made in (*BUILTINS, Any) else _union_members(made)
    else:
        yield hint


def _concrete_subclasses(base: type) -> Iterator[type]:
    """Yields a class and all classes derived from it, except abstract ones."""
    if not isabstract(base):
        yield base
    subclass: type
    for subclass in base.__subclasses__():
        yield from _concrete_subclasses(subclass)
