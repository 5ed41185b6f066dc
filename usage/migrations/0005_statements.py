import unicodedata
from typing import Any

import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
from django.db import migrations, models
from django.db.models import OuterRef, Subquery

import usage.database.names
import usage.validators
from usage.database import triggers


def normalise_names(apps: Any, schema_editor: Any) -> None:
    """Bring the names of customers and API keys to Unicode's NFC."""
    using = schema_editor.connection.alias
    for model in ("Customer", "ApiKey"):
        rows = apps.get_model("usage", model).objects.using(using)
        for pk, name in rows.values_list("pk", "name").iterator():
            if (normal := unicodedata.normalize("NFC", name)) != name:
                rows.filter(pk=pk).update(name=normal)


def name_closed_bills(apps: Any, schema_editor: Any) -> None:
    """Keep today's name and reference with the bills that were closed before these were kept.

    This is the one change of a closed bill, and lifts its guard, which 0008_books brings back.
    """
    connection = schema_editor.connection
    table = " ON usage_bill" if connection.vendor == "postgresql" else ""
    schema_editor.execute(f"DROP TRIGGER IF EXISTS bill_only_closes{table}")
    customer = apps.get_model("usage", "Customer").objects.filter(pk=OuterRef("customer"))
    bills: Any = models.QuerySet(apps.get_model("usage", "Bill"), using=connection.alias)
    bills.filter(closed_at__isnull=False).update(
        closed_name=Subquery(customer.values("name")),
        closed_reference=Subquery(customer.values("reference")),
        named_after_closing=True,
    )


class Migration(migrations.Migration):
    """Keep who was billed with each closed bill, and a history of customers and API keys."""

    dependencies = [("usage", "0004_month_end")]

    operations = [
        migrations.RunPython(triggers.remove_in_migration, migrations.RunPython.noop),
        migrations.CreateModel(
            name="Change",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "action",
                    models.CharField(
                        choices=[
                            ("added", "added"),
                            ("changed", "changed"),
                            ("issued", "issued the key"),
                            ("revoked", "revoked the key"),
                        ],
                        max_length=10,
                    ),
                ),
                ("field", models.CharField(blank=True, max_length=20)),
                ("old", models.CharField(blank=True, max_length=200)),
                ("new", models.CharField(blank=True, max_length=200)),
                (
                    "actor",
                    models.CharField(help_text="A staff user or a command.", max_length=150),
                ),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("at", models.DateTimeField()),
                (
                    "api_key",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="changes",
                        to="usage.apikey",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="changes",
                        to="usage.customer",
                    ),
                ),
            ],
            options={
                "ordering": ("-id",),
                "default_permissions": (),
                "indexes": [
                    models.Index(fields=["customer", "-id"], name="change_by_customer"),
                    models.Index(fields=["api_key", "-id"], name="change_by_api_key"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("api_key__isnull", True), ("customer__isnull", False)),
                            models.Q(("api_key__isnull", False), ("customer__isnull", True)),
                            _connector="OR",
                        ),
                        name="change_of_one_row",
                        violation_error_message="A change is of a customer or of an API key.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("action__in", ("added", "changed", "issued", "revoked"))
                        ),
                        name="change_action_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("actor", ""), _negated=True),
                            django.db.models.lookups.LessThanOrEqual(
                                django.db.models.functions.text.Length("actor"), 150
                            ),
                        ),
                        name="change_actor_given",
                        violation_error_message="The history names who made the change.",
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="apikey",
            name="owner",
            field=usage.database.names.NameField(
                blank=True,
                db_default="",
                default="",
                help_text="The person or team that answers for the key.",
                max_length=100,
                validators=[usage.validators.validate_name],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="contact",
            field=usage.database.names.NameField(
                blank=True,
                db_default="",
                default="",
                help_text=(
                    "How to reach the owner, such as an e-mail address or a telephone number."
                ),
                max_length=200,
                validators=[usage.validators.validate_name],
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="form_id",
            field=models.UUIDField(
                editable=False,
                help_text="The form that issued the key, once.",
                null=True,
                unique=True,
            ),
        ),
        migrations.AddField(
            model_name="bill",
            name="closed_name",
            field=usage.database.names.NameField(
                editable=False,
                help_text="The customer's name when the bill was closed.",
                max_length=200,
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="bill",
            name="closed_reference",
            field=usage.database.names.NameField(
                editable=False,
                help_text="The customer's reference when the bill was closed.",
                max_length=100,
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="bill",
            name="named_after_closing",
            field=models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text=(
                    "The bill was closed before names were kept: they are of the upgrade's day."
                ),
            ),
        ),
        migrations.AddField(
            model_name="customer",
            name="reference",
            field=usage.database.names.NameField(
                blank=True,
                db_default="",
                default="",
                help_text="The customer's number in the company's accounting, printed on statements.",
                max_length=100,
                validators=[usage.validators.validate_name],
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="name",
            field=usage.database.names.NameField(
                help_text="The team or service that holds the key.",
                max_length=100,
                validators=[usage.validators.validate_name],
            ),
        ),
        migrations.AlterField(
            model_name="customer",
            name="name",
            field=usage.database.names.NameField(
                max_length=200, validators=[usage.validators.validate_name]
            ),
        ),
        migrations.RunPython(normalise_names, migrations.RunPython.noop),
        migrations.RunPython(name_closed_bills, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="bill",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("closed_at__isnull", True),
                        ("closed_name__isnull", True),
                        ("closed_reference__isnull", True),
                    ),
                    models.Q(
                        ("closed_at__isnull", False),
                        ("closed_name__isnull", False),
                        ("closed_reference__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="bill_closed_with_name",
            ),
        ),
    ]
