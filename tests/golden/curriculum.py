#!/usr/bin/env python3
"""Golden numbers of the curriculum, in plain Python: run `python3 tests/golden/curriculum.py`, which needs nothing else.

Writes beside itself
  curriculum_events.jsonl    60 steps of recorded groups of 8 rollouts over 12 sources, the same at every run
  curriculum_rollouts.jsonl  the weights after each step, where the bonus counts rollouts
  curriculum_groups.jsonl    the same, where it counts groups
with a window of 40 rollouts and temperature 0.1. Formulas: arXiv 2504.09710.
"""

import json
import math
import struct
from collections import deque
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = [f"kk_logic_{people}" for people in range(3, 15)]
STEPS, GROUPS, GROUP_SIZE = 60, 5, 8
WINDOW, TEMPERATURE = 40, 0.1


class Lcg:
    """Knuth's MMIX generator: the same numbers on every machine."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 11) / 2**53


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def advantages(rewards):
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [f32((r - mean) / (std + 1e-6)) for r in rewards]


def reward(success, rng):
    """3 solved, else -0.5 wrong, -1 not parsed, -3 without the format."""
    if rng.uniform() < success:
        return 3.0
    return [-0.5, -1.0, -3.0][int(rng.uniform() * 3)]


def make_events(rng):
    """Harder sources are solved less and appear later, so that some stay unseen for a while; all improve with time."""
    for step in range(1, STEPS + 1):
        reach = min(len(SOURCES), 4 + step // 5)
        observations = []
        for _ in range(GROUPS):
            arm = int(rng.uniform() * reach)
            success = min(1.0, max(0.0, 0.8 - 0.09 * arm + 0.01 * step))
            rewards = [reward(success, rng) for _ in range(GROUP_SIZE)]
            group = {"source": SOURCES[arm], "rewards": rewards, "advantages": advantages(rewards)}
            observations.append(group)
        yield {"step": step, "observations": observations}


def weights(windows, seen):
    total = max(1, sum(seen.values()))
    ucb = {}
    for name, window in windows.items():
        learnability = sum(window) / len(window) if window else 0.0
        ucb[name] = learnability + math.sqrt(2 * math.log(total + 1) / (seen[name] + 1))
    top = max(ucb.values())
    exps = {name: math.exp((score - top) / TEMPERATURE) for name, score in ucb.items()}
    return {name: e / sum(exps.values()) for name, e in exps.items()}


def replay(events, count):
    names = list(dict.fromkeys(group["source"] for event in events for group in event["observations"]))
    windows = {name: deque(maxlen=WINDOW) for name in names}
    seen = dict.fromkeys(names, 0)
    for event in events:
        for group in event["observations"]:
            windows[group["source"]].extend(abs(a) for a in group["advantages"])
            seen[group["source"]] += len(group["advantages"]) if count == "rollouts" else 1
        yield {"step": event["step"], "weights": weights(windows, seen)}


def write(name, rows):
    (HERE / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    events = list(make_events(Lcg(42)))
    write("curriculum_events.jsonl", events)
    for count in ("rollouts", "groups"):
        write(f"curriculum_{count}.jsonl", replay(events, count))
