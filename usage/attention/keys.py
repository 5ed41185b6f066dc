"""API keys that used to report regularly and have been silent for long."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import defaultdict

from usage.attention.findings import Finding, Kind
from usage.models import ApiKey, Traffic

# Days before the last use that show a key's habit.
_DAYS_READ = 90
_FEWEST_DAYS = 4
_LONGEST_USUAL_GAP = 7  # a key that reports each Monday; one that reports more rarely has no habit


def silent_keys(today: dt.date) -> list[tuple[ApiKey, Finding]]:
    """Return the live keys that have been silent for over twice their usual gap, longest first.

    The usual gap of a key is one that nine in ten of its gaps do not exceed, so that weekends and
    holidays are a part of it.
    """
    days: dict[int, list[dt.date]] = defaultdict(list)
    used = Traffic.objects.filter(api_key__in=ApiKey.objects.live())
    rows = used.since(today - dt.timedelta(days=_DAYS_READ)).order_by("day")
    for key_id, day in rows.values_list("api_key_id", "day"):
        days[key_id].append(day)
    silent = {}
    for key_id, active in days.items():
        gaps = sorted((later - day).days for day, later in itertools.pairwise(active))
        if len(active) < _FEWEST_DAYS:
            continue
        usual = gaps[len(gaps) * 9 // 10]
        if usual <= _LONGEST_USUAL_GAP and (today - active[-1]).days > 2 * usual:
            every = "day" if usual == 1 else f"{usual} days"
            text = f"Silent for {(today - active[-1]).days} days; it used to report every {every}"
            silent[key_id] = Finding(Kind.SILENT, text, active[-1])
    keys = ApiKey.objects.in_bulk(list(silent))
    found = [(keys[key_id], finding) for key_id, finding in silent.items()]
    return sorted(found, key=lambda pair: pair[1].since)
