"""What a compile guard says of counts; that it acts on them is tested on XLA itself, in test_xla.py."""

from __future__ import annotations

from flowers.training.compilation import CompileCounts, describe_unwanted_work


def test_what_came_since() -> None:
    earlier = CompileCounts(3, 1.5, {"aten::nonzero": 2, "aten::topk": 1}, reads=4)
    later = CompileCounts(5, 4.0, {"aten::nonzero": 5, "aten::topk": 1, "aten::sort": 1}, reads=5)
    assert later.since(earlier) == CompileCounts(2, 2.5, {"aten::nonzero": 3, "aten::sort": 1}, reads=1)
    assert later.since(later) == CompileCounts()


def test_a_figure_that_the_host_reads_is_no_fault() -> None:
    assert describe_unwanted_work(CompileCounts(0, 0.0, {"aten::_local_scalar_dense": 7})) == []


def test_compilations_and_other_fallbacks_are() -> None:
    found = describe_unwanted_work(CompileCounts(2, 12.34, {"aten::nonzero": 3}))
    assert found == ["compiled 2 programs in 12.3 s", "ran aten::nonzero on the host 3 times"]
