"""What an outbox tells those who count."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

Kind = Literal[
    "sent", "rejected", "waiting", "failed", "paused", "resumed", "adopted", "unusable_file"
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something an outbox did.

    kind     "sent", "rejected", "waiting" (for its customer to be created, or for the service's
             clock), "failed" (an attempt; retried by itself), "paused" (nothing is sent until
             what ``reason`` says is corrected), "resumed", "adopted" (a dead process's file),
             "unusable_file" (left alone)
    records  how many usage records it was about
    reason   one sentence, empty where there is nothing to explain
    """

    kind: Kind
    records: int = 0
    reason: str = ""


OnEvent = Callable[[Event], object]
_LEVELS = {
    "rejected": logging.ERROR,
    "paused": logging.ERROR,
    "unusable_file": logging.ERROR,
    "failed": logging.WARNING,
    "waiting": logging.WARNING,
    "resumed": logging.INFO,
    "adopted": logging.INFO,
}


class Teller:
    """Logs events and hands them to the application, whose errors stop nothing."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event
        self._later: deque[Event] = deque()

    def later(self, event: Event) -> None:
        """Tell it once no lock is held."""
        self._later.append(event)

    def catch_up(self) -> None:
        """Tell what was put off."""
        while self._later:
            self.tell(self._later.popleft())

    def tell(self, event: Event) -> None:
        """Log it, and call the application's hook."""
        logger.log(
            _LEVELS.get(event.kind, logging.DEBUG),
            "outbox: %s, %d records. %s",
            event.kind,
            event.records,
            event.reason,
        )
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event raised for %r; the outbox goes on", event)
