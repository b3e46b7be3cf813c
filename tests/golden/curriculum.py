#!/usr/bin/env python3
"""Golden numbers of the curriculum, in plain Python: run `python3 tests/golden/curriculum.py`, which needs nothing else.

Writes beside itself
  curriculum_events.jsonl    60 steps of recorded groups of 8 rollouts over 12 sources, the same at every run
  curriculum_rollouts.jsonl  the weights after each step, where the bonus counts rollouts
  curriculum_groups.jsonl    the same, where it counts groups
with a window of 40 rollouts and temperature 0.1. Formulas: arXiv 2504.09710. Also
  curriculum_f64_events.jsonl  30 steps of groups of 4 rollouts over 5 sources, whose rewards and advantages no f32 holds
  curriculum_f64.jsonl         the weights of several policies after each step, with the default settings
whose formulas stand at the top of src/curriculum/policies/*.rs.
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


def variance(rewards):
    mean = sum(rewards) / len(rewards)
    return sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)


def exact_advantages(rewards):
    mean = sum(rewards) / len(rewards)
    return [(r - mean) / (math.sqrt(variance(rewards)) + 1e-6) for r in rewards]


def advantages(rewards):
    return [f32(a) for a in exact_advantages(rewards)]


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


F64_SOURCES = ["a", "b", "c", "d", "e"]


def make_f64_events(rng):
    for step in range(1, 31):
        observations = []
        for _ in range(3):
            arm = int(rng.uniform() * min(len(F64_SOURCES), 2 + step // 4))
            success = 0.8 - 0.15 * arm + 0.01 * step
            rewards = [2.7 if rng.uniform() < success else -0.1 - rng.uniform() for _ in range(4)]
            group = {"source": F64_SOURCES[arm], "rewards": rewards, "advantages": exact_advantages(rewards)}
            observations.append(group)
        yield {"step": step, "observations": observations}


def mean_abs(group):
    return sum(abs(a) for a in group["advantages"]) / len(group["advantages"])


def mean_reward(group):
    return sum(group["rewards"]) / len(group["rewards"])


def softmax(scores, temperature):
    exps = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [e / sum(exps) for e in exps]


def with_floor(weights, floor):
    return [(1 - floor) * weight + floor / len(weights) for weight in weights]


def arms_of(past):
    """The groups of each source so far."""
    return [[group for group in past if group["source"] == name] for name in F64_SOURCES]


def bonus(arms, unit):
    total = max(1, sum(unit * len(arm) for arm in arms))
    return [math.sqrt(2 * math.log(total + 1) / (unit * len(arm) + 1)) for arm in arms]


def dump(past):
    arms = arms_of(past)
    windows = [[abs(a) for group in arm for a in group["advantages"]][-300:] for arm in arms]
    means = [sum(window) / max(1, len(window)) for window in windows]
    return softmax([mean + b for mean, b in zip(means, bonus(arms, 4))], 0.1)


def dump_plus(past):
    arms = arms_of(past)
    rewards = [r for group in past for r in group["rewards"]]
    half = (max(rewards) - min(rewards)) / 2

    def signal(arm):
        ages = [0.9 ** (len(arm) - 1 - i) for i in range(len(arm))]
        squares = sum(age * variance(group["rewards"]) for age, group in zip(ages, arm))
        return math.sqrt(squares / sum(ages)) / half if arm else 0.0

    return softmax([signal(arm) + 0.03 * b for arm, b in zip(arms, bonus(arms, 1))], 0.1)


def sec(past):
    q = [sum(0.2 * 0.8 ** (len(arm) - 1 - i) * mean_abs(g) for i, g in enumerate(arm)) for arm in arms_of(past)]
    return softmax(q, 1.0)


def learnability(past):
    def value(arm):
        successes = [sum(r > 0 for r in group["rewards"]) for group in arm[-20:]]
        return (sum(k * (4 - k) / 12 for k in successes) + 0.25) / (len(successes) + 1)

    values = [value(arm) for arm in arms_of(past)]
    return [v / sum(values) for v in values]


def learning_progress(past):
    def mean(arm, rate):
        shares = [rate * (1 - rate) ** (len(arm) - 1 - i) for i in range(len(arm))]
        return sum(s * mean_reward(group) for s, group in zip(shares, arm)) / sum(shares) if arm else 0.0

    progress = [abs(mean(arm, 0.2) - mean(arm, 0.04)) for arm in arms_of(past)]
    total = sum(progress)
    # A single group gives two equal means, up to rounding.
    still = total < 1e-9
    return with_floor([1 / len(progress) if still else p / total for p in progress], 0.2)


def exp3s(past):
    gamma, alpha, n = 0.2, 0.001, len(F64_SOURCES)
    weights, largest = [1.0] * n, 1.0
    for group in past:
        arm = F64_SOURCES.index(group["source"])
        largest = max(largest, mean_abs(group))
        total = sum(weights)
        drawn = with_floor([w / total for w in weights], gamma)[arm]
        growth = gamma / n * (mean_abs(group) / largest) / max(drawn, gamma / n)
        weights = [w * (math.exp(growth) if i == arm else 1) + math.e * alpha / n * total for i, w in enumerate(weights)]
    return with_floor([w / sum(weights) for w in weights], gamma)


POLICIES = [dump, dump_plus, sec, learnability, learning_progress, exp3s]


def f64_weights(events):
    past = []
    for event in events:
        past += event["observations"]
        yield {"step": event["step"], "policies": {p.__name__: dict(zip(F64_SOURCES, p(past))) for p in POLICIES}}


def write(name, rows):
    (HERE / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    events = list(make_events(Lcg(42)))
    write("curriculum_events.jsonl", events)
    for count in ("rollouts", "groups"):
        write(f"curriculum_{count}.jsonl", replay(events, count))
    events = list(make_f64_events(Lcg(7)))
    write("curriculum_f64_events.jsonl", events)
    write("curriculum_f64.jsonl", f64_weights(events))
