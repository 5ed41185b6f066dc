"""One record a request: authenticated, validated, on the customer's locked bill."""

from django.db import transaction
from django.urls import path
from django.utils import timezone
from rest_framework import generics, serializers

from benchmarks.peers.naive.models import Bill, Customer, UsageRecord


class UsageSerializer(serializers.ModelSerializer):
    """The record's fields, with the model's own validators: a request_id is unique."""

    customer_id = serializers.PrimaryKeyRelatedField(
        source="customer", queryset=Customer.objects.all()
    )

    class Meta:
        model = UsageRecord
        fields = (
            "request_id",
            "customer_id",
            "service",
            "units_consumed",
            "price_per_unit",
            "bill",
            "recorded_at",
        )
        read_only_fields = ("bill", "recorded_at")


class UsageView(generics.CreateAPIView):
    """Records usage on the current bill, whose row is locked while its total is updated."""

    queryset = UsageRecord.objects.all()
    serializer_class = UsageSerializer

    def perform_create(self, serializer: UsageSerializer) -> None:
        usage = serializer.validated_data
        month = timezone.now().date().replace(day=1)
        with transaction.atomic():
            bill, _ = Bill.objects.select_for_update().get_or_create(
                customer=usage["customer"], month=month
            )
            if bill.closed:
                raise serializers.ValidationError("The bill is closed.")
            bill.total += usage["units_consumed"] * usage["price_per_unit"]
            bill.save(update_fields=["total"])
            serializer.save(bill=bill)


urlpatterns = [path("api/v1/usage/", UsageView.as_view())]
