"""README and docs/api.md say what a caller must know."""

import pytest
from django.conf import settings

from usage.api.problems import TITLES

README = (settings.BASE_DIR / "README.md").read_text()
API = (settings.BASE_DIR / "docs" / "api.md").read_text()


@pytest.mark.parametrize("code", sorted(TITLES.keys() - {"not_found", "internal_error"}))
def test_the_readme_says_what_to_do_about_each_problem(code: str) -> None:
    assert f"`{code}`" in README


@pytest.mark.parametrize("page", [README, API], ids=["README.md", "docs/api.md"])
def test_pages_that_show_a_batch_tell_callers_to_look_at_the_rejected(page: str) -> None:
    assert "207" in page
    assert "look at `summary.rejected`" in page


@pytest.mark.parametrize("page", [README, API], ids=["README.md", "docs/api.md"])
def test_pages_tell_a_retry_that_meets_a_conflict_to_stop(page: str) -> None:
    assert "before the first" in page
    assert "stop" in page.lower()
    assert "under a new id |" not in page  # as the table of errors once said of a conflict
