"""Solves the puzzles of `cargo bench --bench countdown` in plain Python: all solutions with exact fractions, and any.

    python3 benches/peers/countdown_solver.py [puzzles]

Prints puzzles per second on one core and how many of the puzzles can be solved, which the Rust solver must agree with.
"""

import sys
import time
from fractions import Fraction

MASK = (1 << 64) - 1


def mix(value):
    """The finalizer of SplitMix64, as in `countdown::puzzle::mix`."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def puzzle(index, largest):
    numbers = [1 + mix(8 * index + slot) % largest for slot in range(4)]
    return numbers, 10 + mix(8 * index + 7) % (largest - 8)


def joins(a, b, rational):
    """What two values make: the value and how it is written."""
    (x, s), (y, t) = a, b
    if x < y:
        x, s, y, t = y, t, x, s
    yield x + y, f"({s}+{t})"
    yield x - y, f"({s}-{t})"
    yield x * y, f"({s}*{t})"
    if rational:
        if y:
            yield Fraction(x) / y, f"({s}/{t})"
        if x:
            yield Fraction(y) / x, f"({t}/{s})"
    elif y and x % y == 0:
        yield x // y, f"({s}/{t})"


def search(items, target, rational):
    if len(items) == 1:
        if items[0][0] == target:
            yield items[0][1]
        return
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            rest = [items[k] for k in range(len(items)) if k not in (i, j)]
            for joined in joins(items[i], items[j], rational):
                yield from search(rest + [joined], target, rational)


def measure(name, n, largest, rational, every):
    solved = 0
    start = time.process_time()
    for index in range(n):
        numbers, target = puzzle(index, largest)
        found = search([(number, str(number)) for number in numbers], target, rational)
        solved += bool(set(found)) if every else next(found, None) is not None
    seconds = time.process_time() - start
    print(f"{name:<32} {n / seconds:>10.0f} puzzles/s   {solved} of {n} solvable")


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for largest in (24, 99):
        for rational, domain in ((False, "naturals"), (True, "rationals")):
            for every, what in ((True, "all"), (False, "any")):
                measure(f"{what}/{domain}/numbers_to_{largest}", n, largest, rational, every)


if __name__ == "__main__":
    main()
