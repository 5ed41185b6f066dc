"""Customers, bills with a running total, and usage records."""

from django.db import models


class Customer(models.Model):
    """Who is billed."""

    name = models.CharField(max_length=200)


class Bill(models.Model):
    """A customer's month; the total is kept up to date with each record."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    month = models.DateField()
    closed = models.BooleanField(default=False)
    total = models.DecimalField(max_digits=30, decimal_places=12, default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(name="one_bill_a_month", fields=("customer", "month")),
        )


class UsageRecord(models.Model):
    """One usage of a service."""

    request_id = models.CharField(max_length=128, unique=True)
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    bill = models.ForeignKey(Bill, on_delete=models.PROTECT)
    service = models.CharField(max_length=100)
    units_consumed = models.DecimalField(max_digits=18, decimal_places=6)
    price_per_unit = models.DecimalField(max_digits=18, decimal_places=12)
    recorded_at = models.DateTimeField(auto_now_add=True)
