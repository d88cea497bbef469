"""chrF (https://aclanthology.org/W15-3049): which sequences of characters two texts share."""

from collections import Counter
from collections.abc import Sequence

LONGEST = 6  # characters of a sequence
RECALL = 4  # beta squared: how much more recall counts than precision


def chrf(text: str, references: Sequence[str]) -> float:
    """Compares a text with the reference that it is most like; case counts, white space doesn't.

    Precision and recall are means over the lengths, 1 to 6 characters, of which both texts have
    sequences, as sacrebleu computes the chrF of a sentence.

    Returns:
        From 0 to 1; NaN if there is no reference.
    """
    return max((_chrf(text, reference) for reference in references), default=float("nan"))


def _chrf(text: str, reference: str) -> float:
    precisions, recalls = [], []
    for length in range(1, LONGEST + 1):
        found, wanted = _sequences(text, length), _sequences(reference, length)
        if found and wanted:
            shared = (found & wanted).total()
            precisions.append(shared / found.total())
            recalls.append(shared / wanted.total())
    precision, recall = sum(precisions), sum(recalls)  # of as many lengths: their number cancels
    if not precision or not recall:
        return 0.0
    mean = (1 + RECALL) * precision * recall / (RECALL * precision + recall)
    return mean / len(precisions)


def _sequences(text: str, length: int) -> Counter[str]:
    characters = "".join(text.split())
    return Counter(characters[i : i + length] for i in range(len(characters) - length + 1))
