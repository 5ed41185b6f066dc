"""Customers: who is billed, in which currency."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from usage.currencies import ISO_DIGITS, digits_of
from usage.database.constraints import CurrencyCode, readable
from usage.database.names import NameField
from usage.models.base import InsertMissing
from usage.models.change import Change, NewValue
from usage.validators import validate_name

LARGEST_ID = 2**63 - 1
CUSTOMER_NAME_LENGTH = 200
REFERENCE_LENGTH = 100


def validate_currency(code: str) -> None:
    """Raise ValidationError unless `code` is a currency of ISO 4217 that has a minor unit."""
    if code not in ISO_DIGITS:
        raise ValidationError(
            f"{code!r} is not a currency with a minor unit in ISO 4217: give a three-letter code"
            " in capitals, such as USD."
        )


class Customer(InsertMissing):
    """Who is billed. The id is the company's own; the currency is fixed once bills exist."""

    id = models.BigIntegerField(
        "customer id",
        primary_key=True,
        validators=[MinValueValidator(1), MaxValueValidator(LARGEST_ID)],
    )
    name = NameField(max_length=CUSTOMER_NAME_LENGTH, validators=[validate_name])
    reference = NameField(
        max_length=REFERENCE_LENGTH,
        blank=True,
        default="",
        db_default="",
        validators=[validate_name],
        help_text="The customer's number in the company's accounting, printed on statements.",
    )
    currency = models.CharField(
        max_length=3,
        default="USD",
        validators=[validate_currency],
        help_text="ISO 4217, in capitals. It cannot change once the customer has a bill.",
    )

    named_in_history = "customer"

    class Meta:
        ordering = ("id",)
        constraints = (
            models.CheckConstraint(
                name="customer_id_positive",
                condition=models.Q(id__gte=1),
                violation_error_message="A customer id is a positive whole number.",
            ),
            models.CheckConstraint(
                name="customer_name_given",
                condition=~models.Q(name=""),
                violation_error_message="A customer has a name.",
            ),
            models.CheckConstraint(
                name="customer_currency_code",
                condition=models.Q(CurrencyCode(models.F("currency"))),
                violation_error_message="A currency is a three-letter ISO 4217 code in capitals.",
            ),
            readable(
                "customer_readable", integers=("id",), texts=("name", "reference", "currency")
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.pk})"

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Check each field; a stored customer may keep a currency that a new one may not have."""
        stored = Customer.objects.filter(pk=self.pk, currency=self.currency)
        if self.currency not in ISO_DIGITS and stored.exists():
            exclude = {*(exclude or ()), "currency"}
        super().clean_fields(exclude)

    def clean(self) -> None:
        super().clean()
        stored = Customer.objects.filter(pk=self.pk).exclude(currency=self.currency)
        if stored.filter(bills__isnull=False).exists():
            raise ValidationError(
                {"currency": "The customer has bills in another currency: make a new customer."}
            )

    def changes_from(
        self, stored: Customer | None
    ) -> tuple[Customer, Change.Action, list[NewValue]]:
        """Return what saving this customer in place of the stored one does, for its history."""
        if stored is None:
            return self, Change.Action.ADDED, [NewValue("name", "", self.name)]
        values = [
            NewValue(field, getattr(stored, field), getattr(self, field))
            for field in ("name", "reference", "currency")
            if getattr(stored, field) != getattr(self, field)
        ]
        return self, Change.Action.CHANGED, values

    @property
    def digits(self) -> int:
        """How many digits the customer's currency has after the point."""
        return digits_of(self.currency)
