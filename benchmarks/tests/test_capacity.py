"""docs/growth.md computes what it says from what was measured."""

from __future__ import annotations

from benchmarks.capacity import PAGE, computed


def test_the_computed_tables_follow_from_the_measured_one() -> None:
    page = PAGE.read_text()

    for each in computed(page):
        assert f"\n{each}\n" in page, "Run python -m benchmarks.capacity."
