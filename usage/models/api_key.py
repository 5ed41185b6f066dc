"""API keys: what an internal service shows to be let in."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import uuid
import zlib
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import Q, lookups
from django.db.models.functions import Length

from usage.database.constraints import readable
from usage.database.names import NameField
from usage.database.transactions import database_now
from usage.models.change import Change, NewValue
from usage.periods import midnight
from usage.validators import validate_name

_MARK = "ub_"
_PREFIX_LENGTH = 8
_CHECKSUM_LENGTH = 8
OWNER_LENGTH = 100
CONTACT_LENGTH = 200


class FormSentTwice(Exception):
    """A form that has issued `api_key` was sent again; no second key was issued."""

    def __init__(self, api_key: ApiKey) -> None:
        super().__init__(
            f"No second key was issued: this form has issued the key {api_key.prefix}, whose text"
            " was shown once. To issue another key, open the form again."
        )
        self.api_key = api_key


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    """Keys as they are asked for, and how one is made."""

    def live(self) -> ApiKeyQuerySet:
        """Return the keys that let their holder in."""
        return self.filter(revoked_at__isnull=True)

    def unused_since(self, day: dt.date) -> ApiKeyQuerySet:
        """Return the live keys made before `day`, of the billing time zone, and not used since."""
        made_before = self.live().filter(created_at__lt=midnight(day))
        return made_before.exclude(traffic__day__gte=day)

    def lock(self, ids: Iterable[int]) -> set[int]:
        """Return those of these ids that exist; others that ask for them wait for this transaction.

        They are locked in one order, so that no two wait for each other, and in a way that neither
        recording nor a look at the key waits for.
        """
        asked = self.filter(pk__in=set(ids)).order_by("pk")
        return set(asked.select_for_update(no_key=True).values_list("pk", flat=True))

    def issue(
        self,
        *,
        name: str,
        owner: str = "",
        contact: str = "",
        form_id: uuid.UUID | None = None,
        by: object = "manage.py",
    ) -> tuple[ApiKey, str]:
        """Create a key for the team called `name`; return it and its text, which is kept nowhere.

        The text is a mark, a public prefix, 256 random bits and a CRC-32 against typos. `by` is
        the staff user or the command that the key's history names. Raises ValidationError for a
        malformed value, and FormSentTwice for a `form_id` that has issued a key.
        """
        prefix = secrets.token_hex(_PREFIX_LENGTH // 2)
        body = f"{_MARK}{prefix}_{secrets.token_hex(32)}"
        key = body + _checksum(body)
        api_key = self.model(
            name=name,
            owner=owner,
            contact=contact,
            form_id=form_id,
            prefix=prefix,
            digest=_digest(key),
        )
        try:
            with transaction.atomic():
                api_key.clean_fields()
                api_key.save(force_insert=True)
                name_given = NewValue("name", "", api_key.name)
                Change.objects.keep(api_key, Change.Action.ISSUED, by=by, values=[name_given])
        except (IntegrityError, ValidationError):
            if form_id and (issued := self.filter(form_id=form_id).first()):
                raise FormSentTwice(issued) from None
            raise
        return api_key, key

    def identify(self, key: str) -> ApiKey | None:
        """Return the live key with this text; a mistyped one is refused without a query."""
        body, checksum = key[:-_CHECKSUM_LENGTH], key[-_CHECKSUM_LENGTH:]
        if not (key.isascii() and key.startswith(_MARK) and checksum == _checksum(body)):
            return None
        return self.live().filter(digest=_digest(key)).first()


class ApiKey(models.Model):
    """What an internal service shows to be let in. Several may live under one name."""

    name = NameField(
        max_length=100,
        validators=[validate_name],
        help_text="The team or service that holds the key.",
    )
    owner = NameField(
        max_length=OWNER_LENGTH,
        blank=True,
        default="",
        db_default="",
        validators=[validate_name],
        help_text="The person or team that answers for the key.",
    )
    contact = NameField(
        max_length=CONTACT_LENGTH,
        blank=True,
        default="",
        db_default="",
        validators=[validate_name],
        help_text="How to reach the owner, such as an e-mail address or a telephone number.",
    )
    form_id = models.UUIDField(
        null=True, unique=True, editable=False, help_text="The form that issued the key, once."
    )
    prefix = models.CharField(max_length=_PREFIX_LENGTH, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, editable=False)

    objects = models.Manager.from_queryset(ApiKeyQuerySet)()

    named_in_history = "api_key"

    class Meta:
        verbose_name = "API key"
        ordering = ("name", "-created_at")
        constraints = (
            models.CheckConstraint(
                name="api_key_name_given",
                condition=~Q(name=""),
                violation_error_message="A key names the team or service that holds it.",
            ),
            models.CheckConstraint(
                name="api_key_digest_is_sha256",
                condition=Q(lookups.Exact(Length("digest"), 64)),
            ),
            models.CheckConstraint(
                name="api_key_revoked_after_creation",
                condition=Q(revoked_at__isnull=True) | Q(revoked_at__gte=models.F("created_at")),
            ),
            readable(
                "api_key_readable",
                instants=("created_at", "revoked_at"),
                texts=("name", "owner", "contact", "prefix", "digest"),
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({_MARK}{self.prefix}…)"

    @property
    def is_revoked(self) -> bool:
        return self.revoked_at is not None

    def revoke(self, *, by: object = "manage.py", reason: str = "") -> bool:
        """Let the key's holder in no longer, for ever; False if it was revoked already."""
        now = max(database_now(), self.created_at)
        with transaction.atomic():
            revoked = ApiKey.objects.live().filter(pk=self.pk).update(revoked_at=now)
            if revoked:
                Change.objects.keep(self, Change.Action.REVOKED, by=by, reason=reason)
        self.refresh_from_db()
        return revoked == 1

    def change_owner(
        self, *, owner: str | None = None, contact: str | None = None, by: object
    ) -> bool:
        """Save the values that are given; False if they are stored already."""
        given = {"owner": owner, "contact": contact}
        with transaction.atomic():
            stored = ApiKey.objects.select_for_update(no_key=True).get(pk=self.pk)
            values = [
                NewValue(field, getattr(stored, field), new)
                for field, new in given.items()
                if new is not None and new != getattr(stored, field)
            ]
            if values:
                for value in values:
                    setattr(self, value.field, value.new)
                self.save(update_fields=[value.field for value in values])
                Change.objects.keep(self, Change.Action.CHANGED, by=by, values=values)
        return bool(values)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise models.ProtectedError("Records name the key that reported them: revoke it.", {self})
