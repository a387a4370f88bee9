"""Shapes as people write them."""

import re

_BRACKETS = re.compile(r"(?:torch\.Size)?\s*(?:\((.*)\)|\[(.*)\])\s*", re.S)
_SIZE = re.compile(r"[0-9]+(?:_[0-9]+)*")
_SEPARATORS = re.compile(r"\s*([x×*,])\s*|\s+", re.I)
_MOST_DIGITS = 18  # so that a size fits 64 bits
_ADVICE = "write it as 65536x10 or 65536,10"


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the sizes that a text names, or raise ValueError.

    Between sizes stand ``x``, ``×``, ``*``, commas or spaces, one kind in a shape. Around them may stand parentheses
    or brackets, and behind them a comma. A size may have underscores.

    Examples
    --------
    >>> [parse_shape(text) for text in ("64x1000", "64,1_000", "(64, 1000)", "[64 1000]", "torch.Size([64, 1000])")]
    [(64, 1000), (64, 1000), (64, 1000), (64, 1000), (64, 1000)]
    """
    inside = text.strip()
    while found := _BRACKETS.fullmatch(inside):
        inside = (found.group(1) if found.group(2) is None else found.group(2)).strip()
    inside = re.sub(r"(?<=[0-9])\s*,$", "", inside)
    words = re.split(r"\s*[xX×*,]\s*|\s+", inside)
    separators = {found.group(1) for found in _SEPARATORS.finditer(inside.lower())}
    if not all(_SIZE.fullmatch(word) for word in words):
        raise ValueError(f"not a shape: {text!r}; {_ADVICE}")
    if len(separators) > 1:
        raise ValueError(f"a shape with different separators: {text!r}; {_ADVICE}")
    for word in words:
        if len(word) > 1 and word.startswith("0"):  # of 1,000 the part behind the comma
            raise ValueError(f"a size that begins with 0: {text!r}; write a thousand as 1000 or 1_000")
        if len(word) > _MOST_DIGITS:
            raise ValueError(f"a size of {len(word)} digits, more than {_MOST_DIGITS}")
    return tuple(int(word) for word in words)
