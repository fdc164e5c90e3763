from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from superlower.driver.allocation import Step, Tensor, Trace, _Arena, alive, arena, packed

MIB = 2**20


def chain(*sizes: int) -> Trace:
    """Each tensor is read by what makes the next."""
    tensors = [Tensor(size, size) for size in sizes]
    steps = [Step((), (tensors[0],))]
    steps += [Step((a,), (b,)) for a, b in pairwise(tensors)]
    return Trace(steps)


def test_a_chain_holds_what_a_step_reads_and_makes() -> None:
    assert alive(chain(3, 8, 4, 3)) == 12
    assert packed(chain(3, 8, 4, 3)) == 12


def test_what_dies_is_written_over_and_what_is_read_later_isnt() -> None:
    a, b, c = (Tensor(8, 8) for _ in range(3))
    over = Trace([Step((), (a,)), Step((a,), (b,), (a,)), Step((b,), ())])
    assert alive(over) == 8
    later = Trace([Step((), (a,)), Step((a,), (b,), (a,)), Step((a, b), (c,), (a, b))])
    assert alive(later) == 16


def test_the_callers_tensors_and_scratch() -> None:
    given_, made = Tensor(100, outside=True), Tensor(50, outside=True)
    inner = Tensor(8)
    assert alive(Trace([Step((given_,), (inner,), scratch=5), Step((inner,), (made,))])) == 13


def test_memory_handed_down_is_held_until_the_next_of_its_kind() -> None:
    first, between, other, again = Tensor(8, "a"), Tensor(8, "b"), Tensor(8, "c"), Tensor(8, "a")
    steps = [
        Step((), (first,)),
        Step((first,), (between,)),
        Step((between,), (other,)),
        Step((other,), (again,)),
    ]
    trace = Trace(steps)
    assert [b[:2] for b in trace.settle()] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert [b[:2] for b in trace.settle(hand_down=True)] == [(0, 3), (1, 2), (2, 3)]


def test_the_arena_grows_as_onnx_runtime_logged_it() -> None:
    """ONNX Runtime 1.32, BasicVSR's forward graph at 96x128: requests that extended its arena, and how."""
    memory = _Arena()
    for request in (49152, 3145728, 3293184, 3145728, 6291456, 12582912, 50331648, 50331648):
        memory.take(request)
    assert [sum(size for _, size, _ in chunks) // MIB for chunks in memory._regions] == [
        1,
        4,
        4,
        8,
        16,
        32,
        64,
        128,
    ]


def test_the_arena_merges_what_is_given_back_and_counts_what_was_touched() -> None:
    memory = _Arena()
    held = [memory.take(300 * 1024) for _ in range(3)]
    assert memory.touched() == 3 * 300 * 1024
    for each in held:
        memory.give(each)
    memory.take(900 * 1024)
    assert len(memory._regions) == 1
    assert memory.touched() == 3 * 300 * 1024


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=25), st.integers(0, 4))
def test_no_allocator_does_better_than_what_is_alive(sizes: list[int], reach: int) -> None:
    tensors = [Tensor(size, size) for size in sizes]
    steps = [Step(tuple(tensors[max(0, i - reach) : i]), (tensor,)) for i, tensor in enumerate(tensors)]
    least = alive(Trace(steps))
    assert least <= packed(Trace(steps)) <= sum(sizes)
    assert least <= arena(Trace(steps))
