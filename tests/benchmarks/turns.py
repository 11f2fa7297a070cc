"""Contenders timed in alternation, so that what else the machine does meets all alike."""

import time


def take_turns(contenders, rounds):
    """Name -> function without arguments: seconds of each round and the last result, by name."""
    seconds, results = {name: [] for name in contenders}, {}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results
