from django.db import migrations

from usage.database import triggers


class Migration(migrations.Migration):
    """Check a service once, in the record, and not again each time that daily usage is added to."""

    dependencies = [
        ('usage', '0011_past_days'),
    ]

    operations = [
        migrations.RunPython(triggers.remove_in_migration, migrations.RunPython.noop),
        migrations.RemoveConstraint(
            model_name='dailyusage',
            name='daily_usage_service',
        ),
        migrations.RunPython(triggers.install_in_migration, migrations.RunPython.noop),
    ]
