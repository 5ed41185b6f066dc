import usage.database.constraints
from django.db import migrations, models

from usage.database import operations, triggers


class Migration(migrations.Migration):
    """Keep the time zone and each bill's digits with the books; let no row be unreadable."""

    dependencies = [
        ('usage', '0007_command_runs'),
    ]

    operations = [
        migrations.RunPython(triggers.remove_in_migration, migrations.RunPython.noop),
        migrations.CreateModel(
            name='BillingTimeZone',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('name', models.CharField(help_text='The key in the IANA database.', max_length=64)),
            ],
            options={
                'default_permissions': (),
            },
        ),
        migrations.AddField(
            model_name='bill',
            name='minor_unit_digits',
            field=models.SmallIntegerField(editable=False, help_text='Digits after the point of its amounts, as ISO 4217 has them when it opens.', null=True),
        ),
        operations.AddCheck(
            model_name='acceptedduplicates',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('at', 'lifted_at'), integers=('customer',), texts=('service', 'reason', 'by', 'lifted_by'))), name='accepted_duplicates_readable'),
        ),
        operations.AddCheck(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('created_at', 'revoked_at'), texts=('name', 'owner', 'contact', 'prefix', 'digest'))), name='api_key_readable'),
        ),
        operations.AddCheck(
            model_name='bill',
            constraint=models.CheckConstraint(condition=models.Q(('minor_unit_digits__isnull', True), models.Q(('minor_unit_digits__gte', 0), ('minor_unit_digits__lte', 4)), _connector='OR'), name='bill_minor_unit_digits'),
        ),
        operations.AddCheck(
            model_name='bill',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(booleans=('named_after_closing',), dates=('month',), instants=('period_start', 'period_end', 'closed_at'), integers=('customer', 'minor_unit_digits'), numbers=('closed_total',), texts=('currency', 'closed_name', 'closed_reference'))), name='bill_readable'),
        ),
        operations.AddCheck(
            model_name='change',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('at',), integers=('customer', 'api_key'), texts=('action', 'field', 'old', 'new', 'actor', 'reason'))), name='change_readable'),
        ),
        operations.AddCheck(
            model_name='commandrun',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('ended_at',), integers=('exit_status', 'count'), texts=('command',))), name='command_run_readable'),
        ),
        operations.AddCheck(
            model_name='customer',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(integers=('id',), texts=('name', 'reference', 'currency'))), name='customer_readable'),
        ),
        operations.AddCheck(
            model_name='dailyusage',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(dates=('day',), integers=('customer', 'bill', 'slot', 'records'), numbers=('price_per_unit', 'units'), texts=('service',))), name='daily_usage_readable'),
        ),
        operations.AddCheck(
            model_name='historyentry',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('at',), integers=('bill',), texts=('record', 'action', 'actor', 'reason', 'detail'))), name='history_readable'),
        ),
        operations.AddCheck(
            model_name='hold',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('at',), integers=('bill',), texts=('reason', 'by'))), name='hold_readable'),
        ),
        operations.AddCheck(
            model_name='possibleduplicates',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('since',), integers=('bill', 'records'), numbers=('price_per_unit', 'amount'), texts=('service', 'pairs'))), name='possible_duplicates_readable'),
        ),
        operations.AddCheck(
            model_name='refusal',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('at',), integers=('api_key', 'status', 'customer_id'), texts=('code', 'detail', 'request_id', 'service'))), name='refusal_readable'),
        ),
        operations.AddCheck(
            model_name='traffic',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(dates=('day',), integers=('api_key', 'created', 'replayed', 'conflicting', 'refused'))), name='traffic_readable'),
        ),
        operations.AddCheck(
            model_name='usagecheck',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(instants=('finished_at',), integers=('bills', 'blocking', 'informing'))), name='usage_check_readable'),
        ),
        operations.AddCheck(
            model_name='usagerecord',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(booleans=('late',), instants=('occurred_at', 'recorded_at'), integers=('customer', 'bill', 'reported_by'), numbers=('units', 'price_per_unit'), texts=('request_id', 'service', 'voids', 'void_reason', 'voided_by'))), name='record_readable'),
        ),
        migrations.AddConstraint(
            model_name='billingtimezone',
            constraint=models.CheckConstraint(condition=models.Q(('id', 1)), name='billing_time_zone_once'),
        ),
        migrations.AddConstraint(
            model_name='billingtimezone',
            constraint=models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='billing_time_zone_given'),
        ),
        migrations.AddConstraint(
            model_name='billingtimezone',
            constraint=models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(texts=('name',))), name='billing_time_zone_readable'),
        ),
        migrations.RunPython(triggers.install_in_migration, migrations.RunPython.noop),
    ]
