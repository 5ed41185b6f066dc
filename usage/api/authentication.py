"""API keys as bearer tokens (RFC 6750)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from rest_framework import authentication, exceptions
from rest_framework.request import Request

from usage.database.transactions import ask_first
from usage.models import ApiKey

# Shorter than the second within which a revoked key is refused.
_KNOWN_FOR_SECONDS = 0.5
_MOST_KNOWN = 1024


class ApiClient(NamedTuple):
    """The holder of an API key, for REST framework the user who makes the request."""

    api_key_id: int
    name: str
    is_authenticated: bool = True


class _KnownKeys:
    """Optimisation: remembers for half a second which keys are valid.

    It spares a busy API client a query for each request, more than half of the CPU per single
    record. Left out, keys are looked up each time: measure it by
    `python -m benchmarks --without known-keys`.
    """

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._known: dict[str, tuple[float, ApiClient]] = {}

    def get(self, key: str) -> ApiClient | None:
        """Return the holder of a key that was valid a moment ago, or None."""
        until, api_client = self._known.get(key, (0.0, None))
        return api_client if self.clock() < until else None

    def put(self, key: str, api_client: ApiClient, *, asked_at: float) -> None:
        """Remember a key; it was valid at `asked_at` of the clock, before the query began."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[key] = asked_at + _KNOWN_FOR_SECONDS, api_client

    def clear(self) -> None:
        """Forget every key."""
        self._known.clear()


known_keys = _KnownKeys()


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """Lets in the holder of a valid API key; every other request gets the same answer."""

    def authenticate(self, request: Request) -> tuple[ApiClient, str]:
        """Return the API client and its key; raises AuthenticationFailed."""
        scheme, _, key = request._request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        api_client = known_keys.get(key)
        if api_client is None:
            asked_at = known_keys.clock()
            api_key = ask_first(lambda: ApiKey.objects.identify(key))
            if api_key is None:
                raise exceptions.AuthenticationFailed
            api_client = ApiClient(api_key.pk, api_key.name)
            known_keys.put(key, api_client, asked_at=asked_at)
        return api_client, key
