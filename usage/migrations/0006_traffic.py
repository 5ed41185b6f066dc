from typing import Any

import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import usage.fields
from django.contrib.auth.management import create_permissions
from django.db import migrations, models


ROLES = ["Billing viewers", "Billing staff", "Billing admins"]


def show_to_all_roles(apps: Any, schema_editor: Any) -> None:
    """Let every role see traffic; a group that somebody took away stays away."""
    using = schema_editor.connection.alias
    # Permissions are made after all migrations; this one is needed before.
    usage = apps.get_app_config("usage")
    usage.models_module = True
    create_permissions(usage, apps=apps, verbosity=0, using=using)
    usage.models_module = None
    permission = apps.get_model("auth", "Permission").objects.using(using).get(
        content_type__app_label="usage", codename="view_traffic"
    )
    for group in apps.get_model("auth", "Group").objects.using(using).filter(name__in=ROLES):
        group.permissions.add(permission)


class Migration(migrations.Migration):
    """What came by each API key and day, and the last refusals of each."""

    dependencies = [
        ('usage', '0005_history_guards'),
    ]

    operations = [
        migrations.CreateModel(
            name='Refusal',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField()),
                ('status', models.SmallIntegerField()),
                ('code', models.CharField(max_length=40)),
                ('detail', models.CharField(max_length=300)),
                ('request_id', models.CharField(blank=True, max_length=128)),
                ('customer_id', models.BigIntegerField(blank=True, help_text='There may be none.', null=True)),
                ('service', models.CharField(blank=True, max_length=100)),
                ('api_key', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='refusals', to='usage.apikey')),
            ],
            options={
                'ordering': ('-at', '-id'),
                'default_permissions': (),
                'indexes': [models.Index(fields=['api_key', '-at', '-id'], name='refusal_by_key'), models.Index(fields=['request_id'], name='refusal_by_request')],
                'constraints': [models.CheckConstraint(condition=models.Q(('status__gte', 400), ('status__lt', 500)), name='refusal_status', violation_error_message='A refusal has a status from 400 to 499.'), models.CheckConstraint(condition=models.Q(usage.fields.CleanText(models.F('code')), django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('code'), 40)), name='refusal_code', violation_error_message='A refusal has a code.'), models.CheckConstraint(condition=models.Q(usage.fields.CleanText(models.F('detail')), django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('detail'), 300)), name='refusal_detail', violation_error_message='A refusal says what is wrong, without control characters.'), models.CheckConstraint(condition=models.Q(('request_id', ''), models.Q(usage.fields.CleanText(models.F('request_id')), django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('request_id'), 128)), _connector='OR'), name='refusal_request_id', violation_error_message='A request_id is shown without control characters.'), models.CheckConstraint(condition=models.Q(('service', ''), models.Q(usage.fields.CleanText(models.F('service')), django.db.models.lookups.LessThanOrEqual(django.db.models.functions.text.Length('service'), 100)), _connector='OR'), name='refusal_service', violation_error_message='A service is shown without control characters.'), models.CheckConstraint(condition=models.Q(('customer_id__isnull', True), ('customer_id__gte', 1), _connector='OR'), name='refusal_customer_id', violation_error_message='A customer id is a positive whole number.')],
            },
        ),
        migrations.CreateModel(
            name='Traffic',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField()),
                ('created', models.BigIntegerField(default=0)),
                ('replayed', models.BigIntegerField(default=0)),
                ('conflicting', models.BigIntegerField(default=0)),
                ('refused', models.BigIntegerField(default=0)),
                ('api_key', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='traffic', to='usage.apikey')),
            ],
            options={
                'verbose_name_plural': 'traffic',
                'ordering': ('-day', 'api_key_id'),
                'default_permissions': ('view',),
                'indexes': [models.Index(fields=['day'], name='traffic_by_day')],
                'constraints': [models.UniqueConstraint(fields=('api_key', 'day'), name='traffic_once'), models.CheckConstraint(condition=models.Q(('conflicting__gte', 0), ('created__gte', 0), ('refused__gte', 0), ('replayed__gte', 0)), name='traffic_not_negative', violation_error_message='What is counted is 0 or more.')],
            },
        ),
        migrations.RunPython(show_to_all_roles, migrations.RunPython.noop),
    ]
