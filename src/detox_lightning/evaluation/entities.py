"""Names and numbers of the prompts: what the responses keep of them, and what they invent."""

import re

import numpy as np

from detox_lightning.evaluation.comparison import Answers, Comparison

FIELD = "{dialogue}"  # in a template, in place of a text
# a marked speaker such as #Person1#, a number with its separators, a word
TOKEN = re.compile(r"#\w+#|\d+(?:[.,:/]\d+)*|[^\W\d_]+")
LABEL = re.compile(r"[^\S\n]*:")  # after the name of a speaker
THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
BREAKS = frozenset(".!?…:;\n\"'“”‘’«»")  # before a word that may be capitalized for its place
TITLES = {"mr", "mrs", "ms", "dr", "prof", "st"}  # end no sentence although a full stop follows
COUNTS = ("entities_kept", "entities_kept_of", "entities_invented", "entities_invented_of")


def names_and_numbers(text: str) -> set[str]:
    """Finds the names and numbers of a text, without a model.

    They are numbers (digits, with their separators), marked speakers such as ``#Person1#``, and
    words with a capital first letter, unless such a word begins a sentence, a line or a quotation,
    is followed by a colon, as the label of a speaker is, or is written in capitals throughout.

    This is a rule of thumb. It doesn't find numbers in words, acronyms, or names that only begin
    sentences or are only labels; a name of two words counts twice; German nouns count. A text
    without letters that have capitals, such as a Chinese one, has none.

    Returns:
        Each once, in lower case; thousands are without commas.
    """
    if text.upper() == text.lower():
        return set()
    found, end, last = set(), 0, ""
    for token in TOKEN.finditer(text):
        word, gap = token[0], text[end : token.start()]
        is_title_s = last.casefold() in TITLES and gap.startswith(".")
        begins = not last or (not BREAKS.isdisjoint(gap) and not is_title_s)
        is_name = word[0].isupper() and not word.isupper() and word.casefold() not in TITLES
        is_name = is_name and not begins and not LABEL.match(text, token.end())
        if is_name or not word[0].isalpha():
            found.add(_plain(word))
        end, last = token.end(), word
    return found


def _plain(word: str) -> str:
    return THOUSANDS.sub("", word).casefold()


def _words(text: str) -> set[str]:
    """All words and numbers of a text, wherever they stand."""
    return {_plain(word) for word in TOKEN.findall(text)}


def entity_counts(prompt: str, responses: list[str]) -> list[tuple[int, int, int, int]]:
    """Counts the names and numbers that responses to a prompt keep and invent.

    One is kept if the response has it anywhere, even where the rule would not find it, and invented
    if the prompt has it nowhere. Who did what to whom isn't seen.

    Returns:
        For each response, how many of the prompt's it has, how many the prompt has, how many of the
        response's the prompt doesn't have, and how many the response has.
    """
    asked, known = names_and_numbers(prompt), _words(prompt)
    said = [(names_and_numbers(text), _words(text)) for text in responses]
    return [(len(asked & every), len(asked), len(new - known), len(new)) for new, every in said]


def without_template(prompts: list[str], template: str) -> list[str]:
    """Returns the texts that prompts of a template were made of; see :func:`with_entities`."""
    start, _, end = template.partition(FIELD)
    return [prompt.removeprefix(start).removesuffix(end) for prompt in prompts]


def with_entities(comparison: Comparison, template: str) -> Comparison:
    """Adds the ``COUNTS`` of each response, see :func:`entity_counts`, to its figures.

    Args:
        comparison: Responses with their prompts.
        template: What is around each text in the prompts, with ``{dialogue}`` in its place; its
            words don't count. Without words around it, the responses go on with their prompts and
            need not name what those name: nothing is added.
    """
    if template == FIELD or FIELD not in template:
        return comparison
    asked = without_template(comparison.prompts, template)

    def counted(side: Answers) -> Answers:
        rows = zip(asked, side.texts, strict=True)
        table = [entity_counts(prompt, texts) for prompt, texts in rows]
        columns = np.moveaxis(np.array(table, float), -1, 0)
        return side._replace(figures={**side.figures, **dict(zip(COUNTS, columns, strict=True))})

    before, after = counted(comparison.before), counted(comparison.after)
    return comparison._replace(before=before, after=after)
