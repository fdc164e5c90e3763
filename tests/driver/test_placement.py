"""The search for what to quantize, on costs that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from superlower.driver.node_groups import NodeGroup
from superlower.driver.placement import Placement, Trial, search
from superlower.metrics.loss import QualityLoss

SCORE = 25.0
BUDGET = 0.05


def group(name: str, share: float, nodes: int = 1) -> NodeGroup:
    return NodeGroup(name, {"g": tuple(f"{name}{i}" for i in range(nodes))}, share)


def trial(names: tuple[str, ...], noise: float, growth: float = 0.0) -> Trial:
    """A loss of `noise` times the model's own squared error; the last frames lose more by `growth` dB."""
    db = 10 * np.log10(1 + noise)
    curve = tuple(np.linspace(db, db + growth, 10))
    moved = SCORE - 10 * np.log10(noise) if noise else 100.0
    return Trial(
        names, QualityLoss(float(np.mean(curve)), max(curve), curve[-1], moved, SCORE, SCORE - db), curve
    )


def world(
    noises: dict[str, float], growths: dict[str, float] | None = None, together: float = 1.0
) -> tuple[Callable[[Sequence[NodeGroup]], Trial], list[tuple[str, ...]]]:
    """Noises of nodes that add up, `together` times if more than one group is chosen; and the calls made."""
    calls: list[tuple[str, ...]] = []

    def attempt(chosen: Sequence[NodeGroup]) -> Trial:
        names = tuple(g.name for g in chosen)
        calls.append(names)
        nodes = [node for g in chosen for node in g.nodes["g"]]
        noise = sum(noises[node] for node in nodes) * (together if len(chosen) > 1 else 1)
        growth = max((growths or {}).get(node, 0.0) for node in nodes)
        return trial(names, noise, growth)

    return attempt, calls


def names(groups: Sequence[NodeGroup]) -> set[str]:
    return {g.name for g in groups}


def found(placement: Placement) -> Trial:
    assert placement.trial is not None
    return placement.trial


def test_everything_where_everything_fits() -> None:
    groups = [group("a", 0.5), group("b", 0.5)]
    attempt, calls = world({"a0": 0.001, "b0": 0.001})
    placement = search(groups, attempt, BUDGET)
    assert names(placement.quantized) == {"a", "b"}
    assert (placement.kept, placement.alone, placement.trials) == ((), {}, 1)
    assert calls == [("a", "b")]


def test_what_costs_most_for_its_share_is_kept() -> None:
    groups = [group("a", 0.6), group("b", 0.39), group("c", 0.01)]
    attempt, _ = world({"a0": 0.006, "b0": 0.003, "c0": 0.2})
    placement = search(groups, attempt, BUDGET)
    assert names(placement.quantized) == {"a", "b"}
    assert names(placement.kept) == {"c"}
    assert found(placement).loss.db <= BUDGET
    assert set(placement.alone) == {"a", "b", "c"}


def test_a_cheap_group_goes_before_a_dear_one_of_the_same_share() -> None:
    """Either fits, both don't."""
    groups = [group("a", 0.5), group("b", 0.5)]
    attempt, _ = world({"a0": 0.010, "b0": 0.007})
    assert names(search(groups, attempt, BUDGET).quantized) == {"b"}


def test_noise_that_multiplies_takes_groups_back_until_it_fits() -> None:
    groups = [group("a", 0.6), group("b", 0.3), group("c", 0.1)]
    attempt, calls = world({"a0": 0.004, "b0": 0.003, "c0": 0.002}, together=2.5)
    placement = search(groups, attempt, BUDGET)
    assert found(placement).fits(BUDGET)
    assert names(placement.quantized) == {"a"}
    assert calls[-1] == ("a",)


def test_a_group_that_does_not_fit_is_tried_in_halves() -> None:
    groups = [group("a", 0.5), group("b", 0.5, nodes=4)]
    attempt, _ = world({"a0": 0.003, "b0": 0.05, "b1": 0.001, "b2": 0.001, "b3": 0.001})
    placement = search(groups, attempt, BUDGET)
    assert names(placement.quantized) == {"a", "b, second half"}
    assert names(placement.kept) == {"b, first half"}
    assert found(placement).groups == ("a", "b, second half")


def test_a_loss_that_grows_is_no_fit() -> None:
    groups = [group("a", 0.5), group("b", 0.5)]
    attempt, _ = world({"a0": 1e-4, "b0": 1e-4}, growths={"b0": 0.12})
    placement = search(groups, attempt, 0.2)
    assert names(placement.quantized) == {"a"}


def test_nothing_fits() -> None:
    groups = [group("a", 0.5), group("b", 0.5)]
    attempt, _ = world({"a0": 1.0, "b0": 1.0})
    placement = search(groups, attempt, BUDGET)
    assert (placement.quantized, placement.trial) == ((), None)
    assert names(placement.kept) == {"a", "b"}


def test_the_search_is_deterministic() -> None:
    groups = [group(name, 0.25, nodes=2) for name in "abcd"]
    noises = {f"{name}{i}": 0.004 for name in "abcd" for i in range(2)}
    outcomes = [search(groups, world(noises)[0], BUDGET) for _ in range(2)]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("curve", "grows"),
    [
        ([0.01] * 10, False),
        ([0.01] * 5 + [0.039] * 5, False),
        ([0.01] * 5 + [0.041] * 5, True),
        ([-0.01] * 5 + [0.019] * 5, False),
        ([-0.01] * 5 + [0.021] * 5, True),
        ([0.01], False),
    ],
)
def test_growth_is_twice_the_first_frames_and_a_fiftieth(curve: list[float], grows: bool) -> None:
    loss = QualityLoss(0.0, 0.0, 0.0, 50.0, SCORE, SCORE)
    assert Trial((), loss, tuple(curve)).grows == grows
