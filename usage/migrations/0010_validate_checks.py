from django.db import migrations

from usage.database.operations import ValidateCheck


class Migration(migrations.Migration):
    """Hold the rows that were there before to the checks of 0008_books."""

    dependencies = [("usage", "0009_fill_books")]

    operations = [
        ValidateCheck(model_name=model, name=check)
        for model, check in (
            ("acceptedduplicates", "accepted_duplicates_readable"),
            ("apikey", "api_key_readable"),
            ("bill", "bill_minor_unit_digits"),
            ("bill", "bill_readable"),
            ("change", "change_readable"),
            ("commandrun", "command_run_readable"),
            ("customer", "customer_readable"),
            ("dailyusage", "daily_usage_readable"),
            ("historyentry", "history_readable"),
            ("hold", "hold_readable"),
            ("possibleduplicates", "possible_duplicates_readable"),
            ("refusal", "refusal_readable"),
            ("traffic", "traffic_readable"),
            ("usagecheck", "usage_check_readable"),
            ("usagerecord", "record_readable"),
        )
    ]
