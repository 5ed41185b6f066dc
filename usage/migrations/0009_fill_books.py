from typing import Any

from django.conf import settings
from django.db import migrations

from usage.currencies import cldr_digits, digits_of
from usage.database import triggers
from usage.database.transactions import lift_statement_timeout
from usage.models.time_zone import confirm_fit


def keep_time_zone(apps: Any, schema_editor: Any) -> None:
    """Keep this process's zone, if every bill's period is of it; else raise OtherTimeZone."""
    using = schema_editor.connection.alias
    lift_statement_timeout(using=using)
    bills = apps.get_model("usage", "Bill").objects.using(using)
    if bills.exists():
        confirm_fit(bills)
        apps.get_model("usage", "BillingTimeZone").objects.using(using).create(
            name=settings.TIME_ZONE
        )


def keep_digits(apps: Any, schema_editor: Any) -> None:
    """Keep the digits that closed bills were rounded to, and ISO 4217's for open ones."""
    bills = apps.get_model("usage", "Bill").objects.using(schema_editor.connection.alias)
    without = bills.filter(minor_unit_digits=None)
    codes = list(without.order_by().values_list("currency", flat=True).distinct())
    with triggers.lifted("bill_only_closes", schema_editor.connection):
        for code in codes:
            of_currency = without.filter(currency=code)
            of_currency.filter(closed_at=None).update(minor_unit_digits=digits_of(code))
            of_currency.exclude(closed_at=None).update(minor_unit_digits=cldr_digits(code))


class Migration(migrations.Migration):
    """Give existing books their time zone, and existing bills their digits."""

    dependencies = [("usage", "0008_books")]

    operations = [
        migrations.RunPython(keep_time_zone, migrations.RunPython.noop),
        migrations.RunPython(keep_digits, migrations.RunPython.noop),
    ]
