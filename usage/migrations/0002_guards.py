from django.db import migrations


class Migration(migrations.Migration):
    """Was the first to install the guards; the last migration that brings one installs all."""

    dependencies = [("usage", "0001_initial")]

    operations = []
