from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

SEE = [
    *("view_customer", "view_bill", "view_usagerecord", "view_historyentry"),
    *("view_apikey", "view_traffic"),
]
ACT = ["change_bill", "change_usagerecord"]
MANAGE = ["add_customer", "change_customer", "add_apikey", "change_apikey"]
ROLES = {
    "Billing viewers": SEE,
    "Billing staff": SEE + ACT,
    "Billing admins": SEE + ACT + MANAGE,
}


def create_roles(apps: Any, schema_editor: Any) -> None:
    """Create the groups, which may be there already, and give each what its role needs."""
    using = schema_editor.connection.alias
    # Permissions are made after all migrations; these are needed before.
    usage = apps.get_app_config("usage")
    usage.models_module = True
    create_permissions(usage, apps=apps, verbosity=0, using=using)
    usage.models_module = None
    permissions = apps.get_model("auth", "Permission").objects.using(using)
    for name, codenames in ROLES.items():
        group, _ = apps.get_model("auth", "Group").objects.using(using).get_or_create(name=name)
        group.permissions.add(
            *permissions.filter(content_type__app_label="usage", codename__in=codenames)
        )


class Migration(migrations.Migration):
    """Staff have one of three roles; a superuser needs none."""

    dependencies = [
        ("usage", "0002_guards"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    # Groups are not taken back: by then they may have members.
    operations = [migrations.RunPython(create_roles, migrations.RunPython.noop)]
