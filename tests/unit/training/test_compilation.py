"""Compile counts are compared and described. How the guard acts on them is tested on XLA, in tests/slow/xla."""

from __future__ import annotations

from flowers.training.compilation import CompileCounts, describe_unwanted_work


def test_since_subtracts_earlier_counts() -> None:
    earlier = CompileCounts(3, 1.5, {"aten::nonzero": 2, "aten::topk": 1}, reads=4)
    later = CompileCounts(5, 4.0, {"aten::nonzero": 5, "aten::topk": 1, "aten::sort": 1}, reads=5)
    assert later.since(earlier) == CompileCounts(2, 2.5, {"aten::nonzero": 3, "aten::sort": 1}, reads=1)
    assert later.since(later) == CompileCounts()


def test_a_value_that_the_host_reads_is_no_problem() -> None:
    assert describe_unwanted_work(CompileCounts(0, 0.0, {"aten::_local_scalar_dense": 7})) == []


def test_compilations_and_other_fallbacks_are_problems() -> None:
    found = describe_unwanted_work(CompileCounts(2, 12.34, {"aten::nonzero": 3}))
    assert len(found) == 2
    assert " 2 " in found[0] and " 12.3 s" in found[0]
    assert "aten::nonzero" in found[1] and " 3 " in found[1]
