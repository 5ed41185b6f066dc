from django.db import migrations


class Migration(migrations.Migration):
    """Empty: the guards are installed when every table that they stand on is there."""

    dependencies = [("usage", "0001_initial")]

    operations = []
