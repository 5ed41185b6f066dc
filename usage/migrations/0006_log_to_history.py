from collections.abc import Iterator
from typing import Any

from django.contrib.admin.models import LogEntry
from django.db import migrations

ACTIONS = {1: "added", 2: "changed"}


def keep_log(apps: Any, schema_editor: Any) -> None:
    """Copy what Django's log has about customers and keys, which is deleted with the accounts."""
    using = schema_editor.connection.alias
    change = apps.get_model("usage", "Change")
    change.objects.using(using).bulk_create(
        [*_changes(apps, using, "customer"), *_changes(apps, using, "apikey")], batch_size=500
    )


def _changes(apps: Any, using: str, model: str) -> Iterator[Any]:
    log = apps.get_model("admin", "LogEntry").objects.using(using)
    entries = log.filter(content_type__app_label="usage", content_type__model=model)
    rows = apps.get_model("usage", model).objects.using(using).in_bulk()
    for entry in entries.select_related("user").order_by("action_time", "pk"):
        row = rows.get(int(entry.object_id or 0))
        if row is None or entry.action_flag not in ACTIONS:
            continue
        action = ACTIONS[entry.action_flag]
        if model == "apikey":
            action = "issued" if action == "added" else "revoked"
        yield apps.get_model("usage", "Change")(
            **{"api_key" if model == "apikey" else "customer": row},
            action=action,
            # The log named the changed fields, and kept no values.
            reason=LogEntry(change_message=entry.change_message).get_change_message()[:500],
            actor=entry.user.username,
            at=entry.action_time,
        )


class Migration(migrations.Migration):
    """Let the history of customers and keys begin with what Django's log has kept."""

    dependencies = [
        ("usage", "0005_statements"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [migrations.RunPython(keep_log, migrations.RunPython.noop)]
