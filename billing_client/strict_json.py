"""What JSON leaves open, refused."""

from __future__ import annotations

from typing import Any


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``object_pairs_hook``: the object. Raises ValueError if a key is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def no_constant(name: str) -> None:
    """For ``parse_constant``: raises ValueError for NaN and Infinity."""
    raise ValueError(f"{name} is not a JSON number")
