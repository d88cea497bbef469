"""What an option must be, in plain words, and what a misspelt name was perhaps meant to be."""

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
    "Tensor": "a number",  # which torch takes for a learning rate, too
}
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}


def wanted(hint: Any) -> str:
    """What a value of a type looks like.

    Args:
        hint: The type, as in a signature.
    """
    kinds = {describe(kind): None for kind in alternatives(hint)}
    literals = [str(value) for kind in alternatives(hint) for value in choices(kind)]
    if literals:
        kinds = {f"one of {', '.join(dict.fromkeys(literals))}": None, **kinds}
    if PLAIN[float] in kinds:
        kinds.pop(PLAIN[int], None)
    return ", or ".join(kind for kind in kinds if kind)


def describe(kind: Any) -> str:
    """One type in words; empty for literals, which are told all together.

    Args:
        kind: No union.
    """
    origin = get_origin(kind)
    if origin is Literal:
        return ""
    if origin is Callable:
        return "the path of a function, such as package.module.name"
    if origin is tuple:
        return f"a list of {len(get_args(kind))}, each {wanted(get_args(kind)[0])}"
    if isclass(origin) and issubclass(origin, Iterable):
        return PLAIN[dict] if issubclass(origin, dict) else PLAIN[list]
    name = getattr(kind, "__name__", str(kind))
    return NUMBERS.get(name) or PLAIN.get(kind) or f"the name of a {name}"


def alternatives(hint: Any) -> list[Any]:
    """The members of a union; another type alone."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for member in get_args(hint) for kind in alternatives(member)]
    if get_origin(hint) is Callable and isclass(made := get_args(hint)[1]) and made not in PLAIN:
        return alternatives(made)
    return [hint]


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of a literal type; none of another."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def class_names(hint: Any) -> list[str]:
    """Short names of the classes that may be named where a type is asked for.

    Args:
        hint: The type, as in a signature.
    """
    bases = [
        kind
        for each in alternatives(hint)
        for kind in (each, *get_args(each))
        if isclass(kind) and kind not in PLAIN and kind.__name__ not in NUMBERS
    ]
    return sorted(
        {each.__name__ for base in bases for each in descendants(base) if not isabstract(each)}
    )


def descendants(base: type) -> Iterator[type]:
    """A class and all that are derived from it and are there already."""
    yield base
    each: type
    for each in base.__subclasses__():
        yield from descendants(each)


def nearest_option(key: str, known: Iterable[str]) -> str | None:
    """The option that was perhaps meant.

    Args:
        key: What there is none of: ``trainer.max_epoch``.
        known: The options that there are, in full.

    Returns:
        None if there is none like it.
    """
    known = list(known)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        beginning = ".".join(parts[:depth])
        inside = [name.split(".") for name in known if f".{name}".startswith(f".{beginning}")]
        siblings = {name[depth] for name in inside if len(name) > depth}
        if part in siblings:
            continue
        if found := get_close_matches(part, sorted(siblings), n=1, cutoff=0.7):
            return ".".join([*parts[:depth], found[0], *parts[depth + 1 :]])
        break
    elsewhere = [name for name in known if name.split(".")[-1] == parts[-1] and name != key]
    return elsewhere[0] if len(elsewhere) == 1 else None
