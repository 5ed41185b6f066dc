"""Makers of what the tests need, each with sensible values of its own."""

from decimal import Decimal
from typing import Any

from factory import base, declarations, django, faker

from usage.ledger.facts import Fact
from usage.models import Customer


class CustomerFactory(django.DjangoModelFactory[Customer]):
    class Meta:
        model = Customer

    id = declarations.Sequence(lambda n: 1000 + n)
    name = faker.Faker("company")
    currency = "USD"


class FactFactory(base.Factory[Fact]):
    """A fact as the API hands it to the write path."""

    class Meta:
        model = Fact

    request_id = declarations.Sequence(lambda n: f"fact:{n}")
    customer_id = 123
    service = "Database Hosting"
    units = Decimal("58.000000")
    price_per_unit = Decimal("0.050000000000")
    occurred_at = None


class _UsageBodyFactory(base.DictFactory):
    request_id = declarations.Sequence(lambda n: f"body:{n}")
    customer_id = 123
    service = "Database Hosting"
    units_consumed = 58
    price_per_unit = "0.05"


def usage_body(**changes: Any) -> dict[str, Any]:
    """Return a record as a team sends it, under an id of its own."""
    return {**_UsageBodyFactory.build(**changes)}
