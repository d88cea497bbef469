"""Texts of others as a page or a file can show them: nothing in them steers whoever reads."""

import re

# what moves a terminal's cursor, ends a line unseen, or turns the direction of what follows
STEERING = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
MARKS = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u2060-\u2064]")  # unseen in a name
# what Markdown reads as something else than itself
MARKUP = re.compile(r"[`*\[\]<|~]|\\(?=[^\w\s])|&(?=#|\w+;)|(?<!\w)_|_(?!\w)")


def visible(text: str) -> str:
    r"""A text in which control characters and changes of direction are seen: ``\u202e``.

    Args:
        text: In any language; marks that its letters need (joiners) stay.
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_name(text: str) -> str:
    """A name on one line, in which nothing is unseen.

    Args:
        text: Of a model, a file, a data set.
    """
    text = MARKS.sub(lambda found: found[0].encode("unicode_escape").decode(), visible(text))
    return " ".join(text.split())


def as_markdown(text: str) -> str:
    """A name that Markdown shows as it is: no link, emphasis, code, cell or tag.

    Args:
        text: See :func:`visible_name`.
    """
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", visible_name(text))


def as_code(text: str) -> str:
    """A name as a span of code in Markdown, which nothing in it can end.

    Args:
        text: See :func:`visible_name`.
    """
    text = visible_name(text)
    fence = _fence(text, 1)
    room = " " if "`" in text else ""
    return f"{fence}{room}{text}{room}{fence}"


def as_block(text: str, language: str) -> str:
    """Text as a block of code in Markdown, which nothing in it can end; it can be copied out.

    Args:
        text: One line or several.
        language: Of the code.
    """
    fence = _fence(text, 3)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def _fence(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
