"""The search of types on made-up costs that add up: what is chosen, in how many runs of the clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import log10

import pytest

from superlower.driver.node_groups import NodeGroup
from superlower.driver.precision_search import Found, Limits, MixedTrial, search
from superlower.driver.precisions import Option
from superlower.metrics.loss import QualityLoss
from superlower.targets.base import Precision

FP32, BF16, INT8 = Precision.FP32, Precision.BF16, Precision.INT8
BEFORE = 25.0
LIMITS = Limits(0.05, 1.0, 1.0)
Costs = Mapping[tuple[str, Precision], float]


class Clip:
    """Runs of a clip: squared errors of node names add up; flicker a level for each unit of noise."""

    def __init__(self, costs: Costs, flicker: float = 0.0) -> None:
        self.costs, self.flicker, self.runs = costs, flicker, 0

    def noise(self, chosen: Sequence[Option]) -> float:
        whole = 0.0
        for option in chosen:
            name = option.group.name.partition(", ")[0]
            part = 0.5 if "half" in option.group.name else 1.0
            if "first" in option.group.name and option.precision is INT8:
                part = 1.0  # All that a group costs lies in the half nearer to the inputs.
            elif "second" in option.group.name and option.precision is INT8:
                part = 0.0
            whole += part * self.costs.get((name, option.precision), 0.0)
        return whole

    def __call__(self, chosen: Sequence[Option]) -> MixedTrial:
        self.runs += 1
        noise = max(self.noise(chosen), 1e-12)
        db = 10 * log10(1 + noise)
        loss = QualityLoss(db, db, db, BEFORE - 10 * log10(noise), BEFORE, BEFORE - db)
        choice = {o.group.name: o.precision for o in chosen}
        return MixedTrial(tuple(choice), loss, (db,) * 8, choice, self.flicker * noise)


def groups(*names: str) -> dict[str, list[Option]]:
    found = {}
    for name in names:
        group = NodeGroup(name, {"g": tuple(f"{name}{i}" for i in range(4))}, 1 / len(names))
        found[name] = [Option(group, precision, {}) for precision in (INT8, BF16, FP32)]
    return found


def saving(names: Sequence[str], int8: float = 2.0, bf16: float = 1.0) -> dict[tuple[str, Precision], float]:
    return {(n, p): s for n in names for p, s in ((INT8, int8), (BF16, bf16), (FP32, 0.0))}


def chosen(found: Found) -> dict[str, Precision]:
    return {option.group.name: option.precision for option in found.chosen}


def room(db: float = 0.05) -> float:
    return 10 ** (db / 10) - 1


def test_all_at_their_fastest_takes_one_run() -> None:
    clip = Clip({})
    found = search(groups("a", "b"), saving("ab"), clip, LIMITS)
    assert (chosen(found), clip.runs) == ({"a": INT8, "b": INT8}, 1)


def test_a_group_that_costs_too_much_stays_at_a_half_type_that_costs_nothing() -> None:
    clip = Clip({("a", INT8): 1.0, ("a", BF16): room() / 100, ("b", INT8): room() / 10})
    options = groups("a", "b")
    options["a"] = [Option(o.group, o.precision, {}) for o in options["a"]]
    found = search(options, saving("ab"), clip, LIMITS)
    assert found.background is BF16
    assert chosen(found)["b"] is INT8
    assert {p for n, p in chosen(found).items() if n.startswith("a")} == {BF16, INT8}
    # Half of the group costs nothing: only that half is taken.
    assert chosen(found)["a, second half"] is INT8
    assert found.trial is not None
    assert found.trial.within(LIMITS)


def test_a_half_type_that_costs_much_is_no_background() -> None:
    costs = {("a", INT8): 1.0, ("a", BF16): room() / 2, ("b", BF16): 0.0, ("b", INT8): 0.0}
    found = search(groups("a", "b"), saving("ab"), Clip(costs), LIMITS)
    assert found.background is FP32
    assert chosen(found)["b"] is INT8


@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_trying_all_would(seed: int) -> None:
    import numpy as np

    rng = np.random.default_rng(seed)
    names = "abcd"
    costs = {(n, INT8): float(rng.exponential(room() / 2)) for n in names}
    costs |= {(n, BF16): float(rng.exponential(room() / 100)) for n in names}
    saved = {(n, p): s for n in names for p, s in ((INT8, rng.uniform(2, 4)), (BF16, rng.uniform(1, 2)))}
    saved |= {(n, FP32): 0.0 for n in names}
    options = {name: [replaced(o) for o in found] for name, found in groups(*names).items()}
    clip = Clip(costs)
    found = search(options, saved, clip, LIMITS)
    everything = product(*options.values())
    best = max(
        (c for c in everything if clip.noise(c) <= room()),
        key=lambda c: sum(saved[o.group.name, o.precision] for o in c),
    )
    got = sum(saved[o.group.name, o.precision] for o in found.chosen)
    # Half types are counted together with the background's whole error: near, and never over the budget.
    assert got >= 0.9 * sum(saved[o.group.name, o.precision] for o in best)
    assert found.trial is not None
    assert found.trial.within(LIMITS)
    assert clip.runs <= 2 + len(names) + 4


def replaced(option: Option) -> Option:
    """The option with a single node, which can't be halved."""
    name = option.group.name
    return Option(NodeGroup(name, {"g": (name,)}, option.group.share), option.precision, {})


def test_flicker_is_held_too() -> None:
    costs = {("a", INT8): room() / 4, ("b", INT8): room() / 2}
    options = {name: [replaced(o) for o in found] for name, found in groups("a", "b").items()}
    clip = Clip(costs, flicker=1.0)
    found = search(options, saving("ab"), clip, Limits(0.05, room() / 3, None))
    assert chosen(found) == {"a": INT8, "b": BF16}


def test_nothing_fits() -> None:
    costs = {(n, p): 1.0 for n in "ab" for p in (INT8, BF16)}
    found = search(groups("a", "b"), saving("ab"), Clip(costs), LIMITS)
    assert (found.trial, found.chosen) == (None, ())
    assert len(found.trials) >= 2


def test_slower_types_are_not_tried() -> None:
    clip = Clip({("a", INT8): 1.0})
    options = {name: [replaced(o) for o in found] for name, found in groups("a", "b").items()}
    saved = saving("ab")
    saved["b", INT8] = -1.0
    found = search(options, saved, clip, LIMITS)
    assert chosen(found) == {"a": BF16, "b": BF16}
    assert ("b", INT8) not in found.alone
