"""The README runs as it is written, but for the address and the key."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import billing_client
from billing_client import ConflictError, Usage
from billing_client.tests.conftest import KEY
from billing_client.tests.faulty import FaultyServer

README = Path(billing_client.__file__).with_name("README.md").read_text(encoding="utf-8")


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_first_snippet_works(server: FaultyServer) -> None:
    names: dict[str, Any] = {"measured": lambda: [("a", 27), ("b", 1.5)]}
    snippet = snippets(README)[0]
    exec(snippet.replace("https://billing.example.com", server.url).replace("…", KEY), names)
    assert list(server.service.stored) == ["hosting:2026-11-22:123", "lb:a", "lb:b"]


def test_the_errors_are_all_told_of() -> None:
    kinds = [name for name in billing_client.__all__ if name.endswith("Error")]
    told = [name for name in kinds if f"`{name}`" in README]
    assert told == [name for name in kinds if name != "FieldError"]


def test_a_copy_for_another_fact_needs_an_id_of_its_own(server: FaultyServer) -> None:
    usage = Usage(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    with billing_client.BillingClient(server.url, KEY) as billing:
        billing.record_many([usage])
        receipts = billing.record_many([replaced(usage), replaced(usage, request_id="new")])
    assert [receipt.status for receipt in receipts] == ["rejected", "created"]
    with pytest.raises(ConflictError):
        receipts.raise_for_rejected()


def replaced(usage: Usage, **changes: Any) -> Usage:
    return dataclasses.replace(usage, units_consumed=Decimal(2), **changes)
