from django.db import migrations

from usage.database import triggers


class Migration(migrations.Migration):
    """Let the database itself refuse to change records, history and closed bills."""

    dependencies = [("usage", "0001_initial")]

    operations = [migrations.RunPython(triggers.install_in_migration, elidable=False)]
