"""Sentences about groups of people: finished ones, or templates that are filled with groups."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import compress, product
from pathlib import Path
from random import Random
from typing import NamedTuple

from detox_lightning.batches import IdentitySentences
from detox_lightning.data.sources import check_column, check_names, load_rows
from detox_lightning.data.text_files import Malformed, decode, open_binary
from detox_lightning.errors import InputError, explain, nearest

PLACEHOLDER = "{group}"
MOST_GROUPS = 300  # comparing them takes time and memory by the square of their number
GROUPS = (
    *("lesbian", "gay", "bisexual", "straight", "heterosexual", "homosexual", "queer", "asexual"),
    *("lgbt", "lgbtq", "transgender", "trans", "nonbinary", "male", "female"),
    *("black", "white", "african", "african american", "american", "arab", "asian", "canadian"),
    *("chinese", "european", "hispanic", "indian", "indigenous", "japanese", "latina", "latino"),
    *("latinx", "mexican", "middle eastern", "polish", "romani", "russian", "turkish"),
    *("atheist", "buddhist", "catholic", "christian", "hindu", "jewish", "muslim", "protestant"),
    *("sikh", "taoist", "old", "older", "elderly", "middle aged", "young", "younger", "teenage"),
    *("autistic", "blind", "deaf", "disabled", "paralyzed"),
)


class IdentitySource(NamedTuple):
    """A file of sentences about groups of people, and how it is read.

    Attributes:
        file: A table as the data modules read it (csv, jsonl, …), or a .txt file of templates.
        groups: Identity terms; None: those of the package.
        text_column: Column with the sentences, or with templates that have ``{group}``.
        label_column: Column that says which of them are harmless; templates need none, and are
            all harmless then.
        harmless: Label of the harmless ones; all others are toxic.
        flag: How messages name the option in the braces.
        groups_flag: How messages name the option that has the groups.
    """

    file: str
    groups: Sequence[str] | None = None
    text_column: str = "phrase"
    label_column: str = "toxicity"
    harmless: str = "nontoxic"
    flag: str = "--{}"
    groups_flag: str = "--groups"

    def read(self) -> tuple[IdentitySentences, int]:
        """Returns the sentences, and how many were left out as they name none of the groups.

        A sentence that names several belongs to the first one.

        Raises:
            InputError: If the file can't be used, or harmless texts name fewer than two groups.
        """
        groups = self._checked_groups()
        texts, labels = self._read_texts() if self.file.endswith(".txt") else self._read_table()
        harmless = self._which_are_harmless(texts, labels)
        filled = [PLACEHOLDER in text for text in texts]
        if all(filled):
            return _filled(texts, harmless, groups), 0
        if any(filled):
            number, text = filled.index(False) + 1, texts[filled.index(False)]
            raise InputError(
                f"{self.file}: {text[:60]!r}, text {number} of {len(texts)}, has no {PLACEHOLDER}, "
                "where a group is put in, but others have: add or remove it"
            )
        sentences = _with_terms(texts, harmless, groups)
        if len({*compress(sentences.groups, sentences.harmless)}) < 2:
            raise InputError(
                f"{self.file}: its texts have no {PLACEHOLDER}, and the harmless ones name fewer "
                f"than two of the {len(groups)} groups ({', '.join(groups[:5])}, …): put "
                f"{PLACEHOLDER} where a group shall stand, or name the groups of its texts by "
                f"{self.groups_flag}"
            )
        return sentences, len(texts) - len(sentences.texts)

    def _checked_groups(self) -> list[str]:
        groups = [term.strip() for term in (GROUPS if self.groups is None else self.groups)]
        if len(groups) < 2:
            raise InputError(
                f"{self.groups_flag}={groups}: groups are compared with one another: name at "
                "least two, or leave the flag out for those of the package"
            )
        if len(groups) > MOST_GROUPS:
            raise InputError(
                f"{self.groups_flag}: {len(groups)} groups are too many to compare each with all "
                f"others; name {MOST_GROUPS} at most"
            )
        if "" in groups:
            raise InputError(f"{self.groups_flag}: a term is blank; remove it")
        lower = Counter(term.lower() for term in groups)
        if twice := [term for term, times in lower.items() if times > 1]:
            raise InputError(f"{self.groups_flag}: {twice[0]!r} is there twice; remove one of them")
        return groups

    def _read_texts(self) -> tuple[list[str], None]:
        """Returns the templates in the lines of a text file."""
        try:
            with open_binary(Path(self.file).expanduser()) as opened:
                lines = decode(opened.read()).split("\n")
        except Malformed as error:
            raise InputError(f"{self.file}: {error}") from error
        except OSError as error:
            raise InputError(explain(error, self.file) or f"{self.file}: {error}") from error
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise InputError(f"{self.file}: there is no text in it; give one template on each line")
        for text in texts:
            if PLACEHOLDER not in text:
                raise InputError(
                    f"{self.file}: the line {text[:60]!r} has no {PLACEHOLDER}, where a group is "
                    "put in: add it; whole sentences need a table with labels, such as a .csv file"
                )
        return texts, None

    def _read_table(self) -> tuple[list[str], list[str] | None]:
        """Returns texts and labels of a table; labels are None if templates have none."""
        text_flag, label_flag = map(self.flag.format, ("text_column", "label_column"))
        rows = load_rows(self.file, "train")
        check_column(rows, self.text_column, "text", text_flag, self.file)
        texts = [text or "" for text in rows[self.text_column][:]]
        if "" in (stripped := [text.strip() for text in texts]):
            raise InputError(
                f"{text_flag}={self.text_column}: row {stripped.index('') + 1} of {self.file} has "
                "no text there; correct or remove it"
            )
        if self.label_column not in rows.column_names and PLACEHOLDER in texts[0]:
            return texts, None
        check_names(rows, {self.label_column: label_flag}, self.file)
        labels = rows[self.label_column][:]
        if None in labels:
            raise InputError(
                f"{label_flag}={self.label_column}: row {labels.index(None) + 1} of {self.file} "
                "has no label there; add it, or remove the row"
            )
        return texts, [str(label) for label in labels]

    def _which_are_harmless(self, texts: list[str], labels: list[str] | None) -> list[bool]:
        if labels is None:
            return [True] * len(texts)
        if self.harmless not in labels:
            found = sorted({*labels})
            raise InputError(
                f"{self.flag.format('harmless')}={self.harmless}: in {self.file} no row of the "
                f"column {self.label_column} has this label; its labels are "
                f"{', '.join(found[:5])}{', …' if len(found) > 5 else ''}"
                f"{nearest(self.harmless, found)}"
            )
        return [label == self.harmless for label in labels]


def _filled(
    templates: Sequence[str], harmless: Sequence[bool], groups: Sequence[str]
) -> IdentitySentences:
    rows = [*product(zip(templates, harmless, strict=True), groups)]
    return IdentitySentences(
        [template.replace(PLACEHOLDER, group) for (template, _), group in rows],
        [group.lower() for _, group in rows],
        [template for (template, _), _ in rows],
        [label for (_, label), _ in rows],
    )


def _with_terms(
    texts: Sequence[str], harmless: Sequence[bool], groups: Sequence[str]
) -> IdentitySentences:
    """Finds the first term of each text, the longest that begins there; leaves out the others."""
    terms = "|".join(map(re.escape, sorted(groups, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)({terms})(?!\w)", re.IGNORECASE)
    columns: tuple[list[str], list[str], list[str], list[bool]] = [], [], [], []
    for text, label in zip(texts, harmless, strict=True):
        if found := pattern.search(text):
            columns[0].append(text)
            columns[1].append(found[0].lower())
            columns[2].append(text[: found.start()] + PLACEHOLDER + text[found.end() :])
            columns[3].append(label)
    return IdentitySentences(*columns)


def sample_per_group(sentences: IdentitySentences, count: int, seed: int) -> IdentitySentences:
    """Returns up to ``count`` sentences of each group, chosen by a seed.

    The templates are put into the same random order for all groups, so that groups get the same
    ones as far as they have them.
    """
    templates = sorted({*sentences.templates})
    Random(seed).shuffle(templates)
    place = {template: number for number, template in enumerate(templates)}
    rows = sorted(range(len(sentences.texts)), key=lambda row: place[sentences.templates[row]])
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        group = sentences.groups[row]
        taken[group] += 1
        if taken[group] <= count:
            chosen.append(row)
    return sentences.select(sorted(chosen))


def sample_rows(
    sentences: IdentitySentences, rows: int | None, seed: int, flag: str
) -> IdentitySentences:
    """Returns up to ``rows`` sentences, equally many of each group as far as there are.

    Args:
        sentences: All sentences.
        rows: How many; None: all.
        seed: Seed of the choice.
        flag: Option that says how many, for the message.

    Raises:
        InputError: If there are more groups than ``rows``.
    """
    if rows is None:
        return sentences
    count = len({*sentences.groups})
    if rows < count:
        raise InputError(f"{flag}={rows}: there are {count} groups; give at least {count}")
    return sample_per_group(sentences, rows // count, seed)
