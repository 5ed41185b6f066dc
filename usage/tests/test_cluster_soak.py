"""The experiments behind docs/reliability.md keep the promises: minutes, so only in `make soak`."""

import pytest
from pytest_django.plugin import DjangoDbBlocker

from usage.tests.reliability import EXPERIMENTS, MOST_PROBE_SECONDS, MOST_SECONDS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.soak,
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("name", sorted(EXPERIMENTS.keys() - {"asynchronous"}))
def test_nothing_acknowledged_is_lost_and_every_answer_comes_in_time(
    name: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock():
        row = EXPERIMENTS[name]()

    assert row.acknowledged > 0
    assert (row.lost, row.doubled, row.wrong_bills) == (0, 0, 0)
    assert row.longest < MOST_SECONDS
    assert row.longest_probe < MOST_PROBE_SECONDS


def test_an_asynchronous_standby_loses_what_had_not_reached_it(
    django_db_blocker: DjangoDbBlocker,
) -> None:
    with django_db_blocker.unblock():
        row = EXPERIMENTS["asynchronous"]()

    assert row.lost > 0
    assert row.wrong_bills == 0  # the books agree with themselves, and no check can tell
