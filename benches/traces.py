"""Sequences of keys as caches meet them, made from a seed; and the best that any cache could make of them."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEYS = 20_000
"""How many keys there are, in the traces that draw from a fixed number."""
SKEW = 0.9
"""Zipf's exponent: the n-th favourite key is asked for n ** -SKEW times as often as the first."""
SCAN = 2_000
"""The length of one scan."""


def zipf(length: int) -> list[int]:
    """Draws keys with favourites that stay."""
    dice = random.Random("zipf")
    weights = list(itertools.accumulate((rank + 1) ** -SKEW for rank in range(KEYS)))
    ranks = dice.choices(range(KEYS), cum_weights=weights, k=length)
    # Otherwise the favourites would be the smallest numbers, next to one another in every table.
    names = list(range(KEYS))
    dice.shuffle(names)
    return [names[rank] for rank in ranks]


def scanned(length: int) -> list[int]:
    """Draws keys with favourites, and every so often somebody goes through many keys that nobody asks for again."""
    keys: list[int] = []
    unseen = itertools.count(KEYS)
    drawn = iter(zipf(length))
    while len(keys) < length:
        keys.extend(itertools.islice(drawn, 2 * SCAN))
        keys.extend(itertools.islice(unseen, SCAN))
    return keys[:length]


def shifting(length: int) -> list[int]:
    """Draws keys with favourites that are others after each tenth of the way."""
    step = KEYS // 10
    part = max(1, length // 10)
    return [(key + place // part * step) % KEYS for place, key in enumerate(sorted_zipf(length))]


def sorted_zipf(length: int) -> list[int]:
    """Draws keys whose favourites are the smallest numbers, so that they can be shifted."""
    dice = random.Random("shifting")
    weights = list(itertools.accumulate((rank + 1) ** -SKEW for rank in range(KEYS)))
    return dice.choices(range(KEYS), cum_weights=weights, k=length)


def looping(length: int) -> list[int]:
    """Goes round and round through a quarter more keys than the cache of `SIZE` entries holds."""
    return [place % (SIZE + SIZE // 4) for place in range(length)]


SIZE = 1_000
"""How many entries the caches hold that meet these traces."""

TRACES: Mapping[str, tuple[str, Callable[[int], list[int]]]] = {
    "zipf": ("favourites that stay", zipf),
    "scanned": ("favourites, and scans between", scanned),
    "shifting": ("favourites that change", shifting),
    "looping": ("a loop longer than the cache", looping),
}
"""Name to what the trace is like, and what makes it."""


def best_possible(trace: Sequence[int], size: int) -> float:
    """Returns the share of hits, in per cent, of a cache that knows the future (Bélády's algorithm)."""
    never = len(trace)
    following = [never] * len(trace)
    last: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = last.get(trace[place], never)
        last[trace[place]] = place
    held: dict[int, int] = {}
    # The key whose next use is furthest away comes first; entries that are out of date are skipped when they surface.
    furthest: list[tuple[int, int]] = []
    hits = 0
    for place, key in enumerate(trace):
        if key in held:
            hits += 1
        elif following[place] == never:
            continue
        elif len(held) == size:
            while held.get(furthest[0][1]) != -furthest[0][0]:
                heapq.heappop(furthest)
            if -furthest[0][0] <= following[place]:
                continue
            del held[heapq.heappop(furthest)[1]]
        held[key] = following[place]
        heapq.heappush(furthest, (-following[place], key))
    return hits / len(trace) * 100
