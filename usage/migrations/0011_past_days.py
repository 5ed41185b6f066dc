import django.core.serializers.json
import usage.database.constraints
from django.db import migrations, models


class Migration(migrations.Migration):
    """Keep the sums of past days, whose daily usage changes no more."""

    dependencies = [
        ('usage', '0010_validate_checks'),
    ]

    operations = [
        migrations.CreateModel(
            name='PastDays',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('until', models.DateField(help_text='In the billing time zone.')),
                ('summed_until', models.DateField(null=True)),
                ('lines', models.JSONField(default=list, encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='Bill, service, unit price and units.')),
                ('amounts', models.JSONField(default=list, encoder=django.core.serializers.json.DjangoJSONEncoder, help_text='Currency, month, day, service and exact amount.')),
            ],
            options={
                'default_permissions': (),
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='past_days_once'), models.CheckConstraint(condition=models.Q(('summed_until', None), ('summed_until__lte', models.F('until')), _connector='OR'), name='past_days_summed', violation_error_message='Only past days can be summed.'), models.CheckConstraint(condition=models.Q(usage.database.constraints.Readable(dates=('until', 'summed_until'), texts=('lines', 'amounts'))), name='past_days_readable')],
            },
        ),
    ]
