from django.db import migrations

from usage.database.operations import DropIndex


class Migration(migrations.Migration):
    """Write a record into one index less: a customer's records are found by the bills."""

    atomic = False
    dependencies = [
        ('usage', '0012_drop_check'),
    ]

    operations = [
        DropIndex(model_name='usagerecord', name='record_by_customer'),
    ]
