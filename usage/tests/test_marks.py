"""The marks of pytest.ini do what it says of them."""

import sys

import pytest


@pytest.mark.no_cover
def test_a_test_marked_no_cover_is_not_measured() -> None:
    assert sys.gettrace() is None
