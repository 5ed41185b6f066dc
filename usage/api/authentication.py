"""API keys as bearer tokens (RFC 6750)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from django.http import HttpRequest
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from usage.models import ApiKey

# A revoked key is refused within a second, so what is known of a key counts for less.
_KNOWN_FOR_SECONDS = 0.5
_MOST_KNOWN = 1024


class Team(NamedTuple):
    """The holder of an API key, as the one who makes the request."""

    api_key_id: int
    name: str
    is_authenticated: bool = True


class _KnownKeys:
    """The keys that were looked up a moment ago, so that a busy team costs no query a request."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._known: dict[str, tuple[float, Team]] = {}

    def get(self, key: str) -> Team | None:
        until, team = self._known.get(key, (0.0, None))
        return team if self.clock() < until else None

    def put(self, key: str, team: Team, *, asked_at: float) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = asked_at + _KNOWN_FOR_SECONDS, team

    def clear(self) -> None:
        self._known.clear()


known_keys = _KnownKeys()


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """Let in who shows a live API key; everybody else gets the same answer."""

    def authenticate(self, request: Request) -> tuple[Team, str]:
        key = _bearer(request._request)
        team = known_keys.get(key) or _identify(key)
        if team is None:
            raise exceptions.AuthenticationFailed
        return team, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def _identify(key: str) -> Team | None:
    asked_at = known_keys.clock()
    api_key = ApiKey.objects.identify(key)
    if api_key is None:
        return None
    team = Team(api_key.pk, api_key.name)
    known_keys.put(key, team, asked_at=asked_at)
    return team


def _bearer(request: HttpRequest) -> str:
    scheme, _, key = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
