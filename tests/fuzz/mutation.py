"""Inputs made of a corpus, by few simple changes; the same seed makes the same ones."""

from collections.abc import Iterator, Sequence
from random import Random

LONGEST = 20_000
"""Bytes of an input."""


def mutated(corpus: Sequence[bytes], tokens: Sequence[bytes], noise: Random) -> bytes:
    """One of the corpus, changed in one to eight places."""
    data = bytearray(noise.choice(corpus))
    for _ in range(noise.choice((1, 1, 2, 3, 8))):
        _change(data, corpus, tokens, noise)
    return bytes(data[:LONGEST])


def _change(
    data: bytearray, corpus: Sequence[bytes], tokens: Sequence[bytes], noise: Random
) -> None:
    start = noise.randint(0, len(data))
    end = min(len(data), start + noise.choice((1, 2, 4, 20, 200)))
    match noise.randrange(8):
        case 0 if data:
            data[start % len(data)] ^= 1 << noise.randrange(8)
        case 1 if data:
            data[start % len(data)] = noise.choice((0, 1, 0x7F, 0x80, 0xFF, noise.randrange(256)))
        case 2:
            del data[start:end]
        case 3:
            data[start:start] = data[start:end] * noise.choice((1, 2, 50))
        case 4:
            other = noise.choice(corpus)
            cut = noise.randint(0, len(other))
            data[start:] = other[cut:]
        case 5:
            del data[start:]
        case 6:
            data[start:start] = noise.randbytes(noise.choice((1, 2, 4, 8)))
        case _ if tokens:
            data[start : noise.choice((start, end))] = noise.choice(tokens)


def endless(corpus: Sequence[bytes], tokens: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The corpus, then one input after the other."""
    noise = Random(seed)
    yield from corpus
    while True:
        yield mutated(corpus, tokens, noise)
