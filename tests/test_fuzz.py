"""A sample of benchmarks/fuzz.py: no traceback, no bug in diffedit, no control character."""

import pytest

from benchmarks.fuzz import CASES, run


@pytest.mark.parametrize("kind", CASES)
def test_a_sample_of_each_kind_gives_a_result_or_one_sentence(kind: str) -> None:
    outcomes, wrong, _ = run(kind, range(1000, 1012))
    assert wrong == []
    assert outcomes["exit 2"] > 0
