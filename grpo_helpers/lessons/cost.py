"""How the time a function takes grows with the length of its input, found without waiting for the long ones."""

import functools
import math
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
ENOUGH = 0.2  # CPU seconds for one call: no need to try a longer input
TOO_SMALL = 0.002  # CPU seconds below which the clock says nothing about growth
STEEP = 1.5  # between linear (1) and quadratic (2)


@dataclass(frozen=True)
class Growth:
    """Seconds for the longest input tried, its size in characters, and the exponent p of time ~ size^p."""

    seconds: float
    size: int
    exponent: float

    @property
    def superlinear(self) -> bool:
        return self.exponent > STEEP

    def predict(self, size: int) -> float:
        """Seconds to expect for an input of `size` characters."""
        return self.seconds * (size / self.size) ** max(1.0, self.exponent)


def growth(function: Callable[[str], Any], text: str) -> Growth:
    """Time `function` on longer and longer beginnings of `text`, up to 32,000 characters.

    CPU time of this process, the best of three calls, for busy machines. A function too fast to be timed is linear.
    """
    timed: list[tuple[int, float]] = []
    for size in (s for s in SIZES if s <= max(len(text), SIZES[0])):
        call = functools.partial(function, text[:size])
        timed.append((size, min(timeit.repeat(call, timer=time.process_time, repeat=3, number=1))))
        if timed[-1][1] > ENOUGH:
            break
    (size, seconds), points = timed[-1], [(s, t) for s, t in timed if t > TOO_SMALL]
    if len(points) < 2:
        return Growth(seconds, size, 1.0)
    (small, start), (large, end) = points[max(0, len(points) - 3)], points[-1]
    return Growth(seconds, size, math.log(end / start) / math.log(large / small))
