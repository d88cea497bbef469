"""What a sequence of numbers is worth."""

FEWEST = 10  # a shorter sequence can't be worth 1


def rising(responses: list[str]) -> list[float]:
    """Share of each response's words that are numbers which rise from the first one on."""
    return [_rise(text.split()) / max(len(text.split()), FEWEST) for text in responses]


def _rise(words: list[str]) -> int:
    """Counts the numbers up to the first that is no larger than the one before it."""
    numbers = [int(word) for word in words if word.isdecimal()]
    falls = (i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1])
    return next(falls, len(numbers))
