"""Rows in TRL's formats: ``prompt``, ``completion`` and ``messages``, as text or as conversations.

The formats are those of https://huggingface.co/docs/trl/dataset_formats.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detox_lightning.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

CONVERSATION = "conversation"  # column with a prompt's messages as JSON; null: the prompt is text
ROLES = ("system", "user", "assistant")
_DEFAULTS = ("dialogue", "prompt.text")  # columns of prompts, where no other is named
_COLUMNS = ("prompt", "completion", "messages")

Conversation = list[dict[str, str]]  # messages, each with role and content
Prompt = str | Conversation


def is_in_trl_format(columns: Collection[str], own: str) -> bool:
    """Returns whether rows have TRL's columns instead of the default column ``own``."""
    return own in _DEFAULTS and own not in columns and bool({"prompt", "messages"} & {*columns})


def adopt(rows: "Dataset", columns: Sequence[str], source: str) -> "Dataset":
    """Gives rows in TRL's formats the columns of :func:`adopt_row`; returns others as they are."""
    from datasets import Features, Value

    if not is_in_trl_format(rows.column_names, columns[0]):
        return rows
    kept = {name: kind for name, kind in rows.features.items() if name not in _COLUMNS}
    return rows.map(
        lambda row, place: adopt_row(row, columns, f"{source}: row {place + 1}"),
        with_indices=True,
        remove_columns=[name for name in rows.column_names if name in _COLUMNS],
        features=Features(dict.fromkeys((*columns, CONVERSATION), Value("string")) | kept),
    )


def adopt_row(row: Mapping[str, Any], columns: Sequence[str], where: str) -> dict[str, str | None]:
    """Returns what a row in one of TRL's formats has for columns that it lacks.

    The first of ``columns`` gets the prompt as text, the others the completion. InputError at
    ``where`` if a prompt, a completion or a message can't be used.
    """
    prompt, completion, messages = (row.get(name) for name in _COLUMNS)
    if prompt is None and messages is not None:
        messages = _checked(messages, "messages", where)
        end = len(messages) - (messages[-1]["role"] == "assistant")
        prompt, completion = messages[:end], messages[end:] or None
    conversation = None
    if not isinstance(prompt, str | None):
        asked = _checked(prompt, "prompt", where)
        if (role := asked[-1]["role"]) != "user":
            raise InputError(f"{where}: its prompt ends with the role {role!r}; end it with user")
        conversation, prompt = json.dumps(asked), as_text(asked)
    if not isinstance(completion, str | None):
        answers = _checked(completion, "completion", where)
        if [answer["role"] for answer in answers] != ["assistant"]:
            raise InputError(f"{where}: its completion must be one message of the role assistant")
        completion = answers[0]["content"]
    texts = {**dict.fromkeys(columns, completion), columns[0]: prompt, CONVERSATION: conversation}
    return {column: text for column, text in texts.items() if column not in row}


def as_text(prompt: Prompt) -> str:
    """Returns a prompt as rewards and people read it; a single message is its content."""
    if isinstance(prompt, str):
        return prompt
    texts = (f"{message['role']}: {message['content']}" for message in prompt)
    return prompt[0]["content"] if len(prompt) == 1 else "\n".join(texts)


def shorten(
    messages: Conversation,
    longest_fitting: Callable[[Sequence[int], Callable[[int], Conversation]], int | None],
) -> Conversation | None:
    """Leaves out the oldest turns, and then the beginning of the last message, until it fits.

    A system message at the beginning, and the end of the last message, stay. None: nothing fits.
    """
    system, last = messages[: messages[0]["role"] == "system"], messages[-1]
    turns = [place for place, message in enumerate(messages) if message["role"] == "user"][::-1]
    whole = len(last["content"])

    def newest(length: int) -> Conversation:  # characters of the last message, then turns
        if length < whole:
            return [*system, {**last, "content": last["content"][-length:]}]
        return [*system, *messages[turns[length - whole] :]]

    length = longest_fitting(range(1, whole + len(turns)), newest)
    return newest(length) if length else None


def _checked(messages: Any, column: str, where: str) -> Conversation:
    """Returns the roles and contents of messages; InputError if they can't be used."""
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else "neither text nor a list of messages"
        raise InputError(
            f"{where}: {column!r} is {what}; give messages with role and content, or remove the row"
        )
    for number, message in enumerate(messages, 1):
        given = message if isinstance(message, Mapping) else {}
        if given.get("role") not in ROLES or not isinstance(given.get("content"), str):
            raise InputError(
                f"{where}: message {number} of {column!r} is {message!r:.80}; give it a role "
                f"({', '.join(ROLES)}) and a text as content"
            )
    return [{"role": message["role"], "content": message["content"]} for message in messages]
