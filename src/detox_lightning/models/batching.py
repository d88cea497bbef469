"""How texts reach a model: cut to what it reads, each once, with others of similar length."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

# One more call of a model costs as much as CALL_TOKENS more tokens, since weights are read again,
# and in each layer as much as CALL_PRODUCTS multiplications: for Python, on a GPU for launches and
# for rows too few to fill it.
CALL_TOKENS = 32
CALL_PRODUCTS = {"cpu": 2**22, "cuda": 2**37}

# Names of tables of position embeddings; tables of distances have other names.
POSITION_TABLES = re.compile(
    r"(^|\.)(position_embeddings?|embed_positions|positions_embed|pos_embed|wpe)$"
)

# Parts of the layers of BERT, RoBERTa, ELECTRA and DeBERTa, and of DistilBERT.
LAYERS_OF_BERT = (".attention.output", ".sa_layer_norm")

Text = TypeVar("Text", str, tuple[str, str])


def distinct_texts(texts: list[Text]) -> tuple[list[Text], Tensor]:
    """Removes duplicates, keeping first occurrences; also ``[n]`` each text's index among them."""
    places: dict[Text, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    return list(places), torch.tensor(rows, dtype=torch.long)


def encode(
    tokenizer: Any, texts: list[str], max_tokens: int | None = None, **options: Any
) -> list[list[int]]:
    """Returns each text's tokens, cut to ``max_tokens``. Tokenizers fail if there is no text."""
    if not texts:
        return []
    if max_tokens is not None:
        options |= {"truncation": True, "max_length": max_tokens}
    encoded: list[list[int]] = tokenizer(texts, **options)["input_ids"]
    return encoded


@dataclass
class CutCounter:
    """Counts the texts that a model can't read whole, and warns once of each kind.

    Attributes:
        name: Name of the model.
        max_tokens: Tokens that the model reads; known once it is open.
        texts: Distinct texts so far.
        cut_prompts: Texts whose prompt lost its beginning.
        cut_texts: Texts that lost their own end.
    """

    name: str
    max_tokens: int = 0
    texts: int = 0
    cut_prompts: int = 0
    cut_texts: int = 0

    def add(self, texts: int, cut_prompts: int, cut_texts: int) -> None:
        """Adds numbers of texts, and of those among them whose prompt or end was cut."""
        self.texts += texts
        limit = f"{self.name!r} reads {self.max_tokens} tokens"
        of = f"of the first {self.texts} texts"
        if cut_prompts and not self.cut_prompts:
            prompts = f"{limit}: the beginning of the prompt was cut off in {cut_prompts} {of}"
            warnings.warn(prompts, stacklevel=2)
        if cut_texts and not self.cut_texts:
            ends = f"{limit}: the end was cut off in {cut_texts} {of}, too long by themselves"
            warnings.warn(ends, stacklevel=2)
        self.cut_prompts += cut_prompts
        self.cut_texts += cut_texts


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Returns the number of tokens that two texts begin with alike."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def encode_cut(
    tokenizer: Any, pairs: list[tuple[str, str]], counter: CutCounter
) -> list[list[int]]:
    """Tokenizes texts after their prompts, special tokens included, to what a model reads.

    If they are too long, the prompt's beginning is cut; the text's own end only if the text is too
    long by itself. White space at both ends is left out. ``pairs`` are prompts and texts.
    """
    limit = counter.max_tokens
    whole = [(prompt + text).strip() for prompt, text in pairs]
    encoded = encode(tokenizer, whole, verbose=False)
    long = [row for row, ids in enumerate(encoded) if len(ids) > limit]
    # tokens of the text alone; one made of prompt and text is the text's
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    prompts = encode(tokenizer, [pairs[row][0].lstrip() for row in long], **options)
    bare = encode(tokenizer, [whole[row] for row in long], **options)
    room = limit - tokenizer.num_special_tokens_to_add()
    cut_texts = 0
    for row, prompt, ids in zip(long, prompts, bare, strict=True):
        is_too_long = len(ids) - common_prefix(prompt, ids) > room
        text, side = (pairs[row][1].strip(), "right") if is_too_long else (whole[row], "left")
        usual, tokenizer.truncation_side = tokenizer.truncation_side, side
        try:
            (encoded[row],) = encode(tokenizer, [text], limit)
        finally:
            tokenizer.truncation_side = usual
        cut_texts += is_too_long
    counter.add(len(pairs), sum(1 for row in long if pairs[row][0]), cut_texts)
    return encoded


def padding_budget(model: Any) -> int:
    """Tokens of padding that cost no more than one more call of a transformers model.

    Its layers are assumed to have ``12 d²`` weights each.
    """
    width = getattr(model.config, "hidden_size", 1024)
    products = CALL_PRODUCTS.get(model.device.type, CALL_PRODUCTS["cuda"])
    return CALL_TOKENS + products // (12 * width**2)


def group_by_length(
    lengths: list[int], budget: int, max_rows: int | None = None
) -> list[list[int]]:
    """Groups of rows whose lengths differ little.

    Args:
        lengths: Each row's.
        budget: The most tokens of padding in a group; see :func:`padding_budget`.
        max_rows: The most rows in a group; None: any number.

    Returns:
        Groups of indices, the longest rows first.
    """
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        padding += longest - lengths[row]
        if groups and len(groups[-1]) != max_rows and padding <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
            padding = 0
    return groups


def token_limit(model: Any, tokenizer: Any) -> int:
    """The most tokens that both a model and its tokenizer allow."""
    limit = tokenizer.model_max_length  # 1e30 if it has none, a number that it can't use
    return int(min(count_positions(model) or limit, limit, 2**31 - 1))


def count_positions(model: Any) -> int | None:
    """Tokens that a transformers model has positions for; None: any number.

    Some rows of a table of learned position embeddings may belong to no token: RoBERTa and its
    relatives count from the padding token on, BART and OPT from an offset.
    """
    tables = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and POSITION_TABLES.search(name)
    ]
    limits = [table.num_embeddings - _first_position(table) for table in tables]
    configured: int | None = getattr(model.config, "max_position_embeddings", None)
    if configured and configured > 0:  # XLNet, which has no limit, says -1
        limits.append(configured)
    return min(limits, default=None)


def _first_position(table: nn.Embedding) -> int:
    padding = -1 if table.padding_idx is None else table.padding_idx
    return int(getattr(table, "offset", padding + 1))


def padding_id(model: Any) -> int | None:
    """Returns the padding token of a model's config; None if it has none with an embedding."""
    token: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    rows = model.get_input_embeddings().weight.shape[0]
    return token if token is not None and 0 <= token < rows else None


def classify(model: Any, ids: Tensor, mask: Tensor, broadcasts: bool = False) -> Tensor:
    """Returns a classifier's logits ``[b, labels]``, float32, of texts padded on the right.

    Padding on the right moves no position, and a decoder doesn't look at it. Models that take a
    batch's last column for each text's end (XLNet) get it on the left instead.

    Args:
        model: A sequence classifier from transformers.
        ids: ``[b, s]``.
        mask: ``[b, s]``, bool: where there is text.
        broadcasts: Whether the model takes a mask ``[b, 1, 1, s]``, from which it doesn't make one
            of ``[b, 1, s, s]``; see :func:`takes_broadcast_mask`.
    """
    pad = padding_id(model)
    if pad is not None:
        ids = ids.masked_fill(~mask, pad)
    if getattr(model.config, "summary_type", None) == "last":
        places = torch.arange(ids.shape[1], device=ids.device) - (~mask).sum(dim=1, keepdim=True)
        places %= ids.shape[1]
        ids, mask = ids.gather(1, places), mask.gather(1, places)
    visible: Tensor | None = mask.long()
    if broadcasts:  # a GPU isn't asked, as the host would wait for its answer
        is_whole = mask.device.type == "cpu" and mask.all()
        visible = None if is_whole else mask[:, None, None]
    logits: Tensor = model(input_ids=ids, attention_mask=visible).logits
    return logits.float()


def classify_rows(model: Any, rows: list[list[int]], broadcasts: bool = False) -> Tensor:
    """Returns a classifier's logits ``[b, labels]``, float32, of ``b`` tokenized texts; b > 0.

    Decoders find a text's last token by the padding after it. If the model has no padding token,
    one that none of the texts ends with is its padding token meanwhile.
    """
    config = model.config.get_text_config()
    before: int | None = getattr(config, "pad_token_id", None)
    if padding_id(model) is None:
        last = {ids[-1] for ids in rows}
        config.pad_token_id = next(token for token in range(len(rows) + 1) if token not in last)
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    try:
        ids, mask = (x.to(model.device, non_blocking=True) for x in (ids, mask))
        return classify(model, ids, mask, broadcasts)
    finally:
        config.pad_token_id = before


@torch.no_grad()
def mixes_padding(model: Any, short: list[int], long: list[int]) -> bool:
    """Whether a classifier's logits of a text depend on the padding beside it.

    Some kinds mix tokens without regard to the mask: by Fourier transforms (FNet), by convolutions
    (ConvBERT, MobileBERT), or by segments of the text (Nyströmformer). ``short`` and ``long`` are
    the token ids of two texts.
    """
    alone, beside = classify_rows(model, [short])[0], classify_rows(model, [short, long])[0]
    return not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4, equal_nan=True)


@torch.no_grad()
def takes_broadcast_mask(model: Any, short: list[int], long: list[int]) -> bool:
    """Whether a classifier is one of BERT's kind, and small masks don't change its logits.

    Others aren't asked: with such a mask, a decoder would look at later tokens.

    Args:
        model: From transformers.
        short: Token ids of a text; they are padded for this.
        long: Those of a longer text.
    """
    is_alike = any(name.endswith(LAYERS_OF_BERT) for name, _ in model.named_modules())
    if not is_alike or getattr(model.config, "is_decoder", False) or len(short) == len(long):
        return False
    usual = classify_rows(model, [short, long])
    try:
        found = classify_rows(model, [short, long], broadcasts=True)
    except (AttributeError, IndexError, RuntimeError, ValueError):  # whatever its code makes of it
        return False
    return torch.allclose(found, usual, rtol=1e-4, atol=1e-5)
