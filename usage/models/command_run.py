"""How the last run of each scheduled command ended, for whoever watches the service."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from usage.database.constraints import readable
from usage.database.transactions import database_now


class CommandRunQuerySet(models.QuerySet["CommandRun"]):
    """Runs as they are kept."""

    def keep(self, command: str, *, exit_status: int, count: int) -> None:
        """Keep that a run of the command ended now, in place of the run before."""
        self.update_or_create(
            command=command,
            defaults={"ended_at": database_now(), "exit_status": exit_status, "count": count},
        )


class CommandRun(models.Model):
    """The last run of one command: when it ended, its exit status and its count.

    `ended_at` is in UTC, by the database's clock. `count` is the number of bills closed, of
    differences found, or of findings that block a close.
    """

    command = models.CharField(primary_key=True, max_length=40)
    ended_at = models.DateTimeField()
    exit_status = models.SmallIntegerField()
    count = models.BigIntegerField()

    objects = models.Manager.from_queryset(CommandRunQuerySet)()

    class Meta:
        default_permissions = ()  # for metrics alone
        constraints = (
            models.CheckConstraint(
                name="command_run_counts",
                condition=Q(exit_status__gte=0, exit_status__lt=256, count__gte=0),
                violation_error_message="An exit status is 0 to 255, and a count 0 or more.",
            ),
            readable(
                "command_run_readable",
                texts=("command",),
                instants=("ended_at",),
                integers=("exit_status", "count"),
            ),
        )

    def __str__(self) -> str:
        return f"{self.command} at {self.ended_at:%Y-%m-%d %H:%M:%S}"
