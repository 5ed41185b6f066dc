"""Traffic: what became of the records that came by each API key, for staff to look up.

Statistics, and nothing that is billed: bills are made of records alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from operator import add
from typing import NamedTuple

from django.db import models
from django.db.models import F, Max, Q, Window, lookups
from django.db.models.functions import Length, RowNumber

from usage.database.constraints import CleanText, readable
from usage.models.api_key import ApiKey
from usage.validators import REQUEST_ID_LENGTH, SERVICE_LENGTH

KEPT_REFUSALS = 50
CODE_LENGTH = 40
DETAIL_LENGTH = 300


class Counts(NamedTuple):
    """How many records were newly recorded, sent again, in conflict with others, or refused."""

    created: int = 0
    replayed: int = 0
    conflicting: int = 0
    refused: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum, count by count."""
        return Counts._make(map(add, self, other))


class RefusalNote(NamedTuple):
    """A refusal as it is noted before it is kept, within the bounds of `Refusal`."""

    at: dt.datetime
    status: int
    code: str
    detail: str
    request_id: str = ""
    customer_id: int | None = None
    service: str = ""


class TrafficQuerySet(models.QuerySet["Traffic"]):
    """Traffic as it is asked for, and how it is added to."""

    def on(self, day: dt.date) -> TrafficQuerySet:
        return self.filter(day=day)

    def since(self, day: dt.date) -> TrafficQuerySet:
        return self.filter(day__gte=day)

    def troubled(self) -> TrafficQuerySet:
        """Return the days on which a key's records were refused or in conflict."""
        return self.filter(Q(conflicting__gt=0) | Q(refused__gt=0))

    def last_days(self, api_keys: Collection[ApiKey]) -> dict[int, dt.date]:
        """Return the last day on which each of these keys was used, by its id."""
        used = self.filter(api_key__in=api_keys).order_by().values_list("api_key")
        return dict(used.annotate(Max("day")))

    def add_counts(self, counts: Mapping[tuple[int, dt.date], Counts]) -> None:
        """Add counts by key id and day, in a transaction of the caller's.

        Keys that do not exist are left out.
        """
        known = ApiKey.objects.lock(api_key_id for api_key_id, _ in counts)
        days = {day for _, day in counts}
        rows = {
            (row.api_key_id, row.day): row for row in self.filter(api_key__in=known, day__in=days)
        }
        missing = []
        for (api_key_id, day), added in counts.items():
            if row := rows.get((api_key_id, day)):
                row.counts = row.counts.plus(added)
            elif api_key_id in known:
                missing.append(self.model(api_key_id=api_key_id, day=day, **added._asdict()))
        self.bulk_update([rows[key] for key in rows.keys() & counts.keys()], Counts._fields)
        self.bulk_create(missing)


class Traffic(models.Model):
    """The records that came by one API key on one day of the billing time zone.

    The day is that of the process's clock when it answered. Answers of 503 are not
    counted, since nothing was decided.
    """

    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, db_index=False, related_name="traffic"
    )
    day = models.DateField()
    created = models.BigIntegerField(default=0)
    replayed = models.BigIntegerField(default=0)
    conflicting = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)

    objects = models.Manager.from_queryset(TrafficQuerySet)()

    class Meta:
        verbose_name_plural = "traffic"
        default_permissions = ("view",)  # of refusals too
        ordering = ("-day", "api_key_id")
        constraints = (
            models.UniqueConstraint(name="traffic_once", fields=("api_key", "day")),
            models.CheckConstraint(
                name="traffic_not_negative",
                condition=Q(created__gte=0, replayed__gte=0, conflicting__gte=0, refused__gte=0),
                violation_error_message="What is counted is 0 or more.",
            ),
            readable(
                "traffic_readable",
                integers=("api_key", "created", "replayed", "conflicting", "refused"),
                dates=("day",),
            ),
        )
        indexes = (models.Index(name="traffic_by_day", fields=("day",)),)

    def __str__(self) -> str:
        return f"{self.api_key} on {self.day}"

    @property
    def counts(self) -> Counts:
        return Counts(self.created, self.replayed, self.conflicting, self.refused)

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self.created, self.replayed, self.conflicting, self.refused = counts


class RefusalQuerySet(models.QuerySet["Refusal"]):
    """Refusals as they are asked for, and how they are kept."""

    def of_request(self, request_id: str) -> RefusalQuerySet:
        """Return the refusals under a request_id, the latest first."""
        return self.filter(request_id=request_id).order_by("-at", "-id")

    def keep(self, notes: Mapping[int, Iterable[RefusalNote]]) -> None:
        """Add refusals by key id and drop all but each key's last fifty.

        In a transaction of the caller's; keys that do not exist are left out.
        """
        known = ApiKey.objects.lock(notes)
        if not known:
            return
        self.bulk_create(
            self.model(api_key_id=api_key_id, **note._asdict())
            for api_key_id in known
            for note in notes[api_key_id]
        )
        newest_first = Window(
            RowNumber(), partition_by="api_key", order_by=(F("at").desc(), F("id").desc())
        )
        of_these = self.filter(api_key__in=known).order_by().annotate(place=newest_first)
        self.filter(pk__in=of_these.filter(place__gt=KEPT_REFUSALS).values("pk")).delete()


def _clean(name: str, length: int, *, or_empty: bool = False) -> Q:
    """Match text without control characters, no longer than this; SQLite measures none itself."""
    clean = Q(CleanText(F(name)), lookups.LessThanOrEqual(Length(name), length))
    return Q((name, "")) | clean if or_empty else clean


class Refusal(models.Model):
    """A record or a request that was refused, with its problem; a conflict is one too.

    The caller's values are kept as far as they could be read, cut and without unseen characters:
    it may be anything.
    """

    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, db_index=False, related_name="refusals"
    )
    at = models.DateTimeField()
    status = models.SmallIntegerField()
    code = models.CharField(max_length=CODE_LENGTH)
    detail = models.CharField(max_length=DETAIL_LENGTH)
    request_id = models.CharField(max_length=REQUEST_ID_LENGTH, blank=True)
    customer_id = models.BigIntegerField(null=True, blank=True, help_text="There may be none.")
    service = models.CharField(max_length=SERVICE_LENGTH, blank=True)

    objects = models.Manager.from_queryset(RefusalQuerySet)()

    class Meta:
        default_permissions = ()  # who sees traffic sees these
        ordering = ("-at", "-id")
        constraints = (
            models.CheckConstraint(
                name="refusal_status",
                condition=Q(status__gte=400, status__lt=500),
                violation_error_message="A refusal has a status from 400 to 499.",
            ),
            models.CheckConstraint(
                name="refusal_code",
                condition=_clean("code", CODE_LENGTH),
                violation_error_message="A refusal has a code.",
            ),
            models.CheckConstraint(
                name="refusal_detail",
                condition=_clean("detail", DETAIL_LENGTH),
                violation_error_message="A refusal says what is wrong, without control characters.",
            ),
            models.CheckConstraint(
                name="refusal_request_id",
                condition=_clean("request_id", REQUEST_ID_LENGTH, or_empty=True),
                violation_error_message="A request_id is shown without control characters.",
            ),
            models.CheckConstraint(
                name="refusal_service",
                condition=_clean("service", SERVICE_LENGTH, or_empty=True),
                violation_error_message="A service is shown without control characters.",
            ),
            models.CheckConstraint(
                name="refusal_customer_id",
                condition=Q(customer_id__isnull=True) | Q(customer_id__gte=1),
                violation_error_message="A customer id is a positive whole number.",
            ),
            readable(
                "refusal_readable",
                integers=("api_key", "status", "customer_id"),
                instants=("at",),
                texts=("code", "detail", "request_id", "service"),
            ),
        )
        indexes = (
            models.Index(name="refusal_by_key", fields=("api_key", "-at", "-id")),
            models.Index(name="refusal_by_request", fields=("request_id",)),
        )

    def __str__(self) -> str:
        return f"{self.status} {self.code} at {self.at:%Y-%m-%d %H:%M:%S}"
