"""Usage that waits on disk until the service has it, however long that takes."""

from billing_client.outbox.events import Event
from billing_client.outbox.outbox import Flushed, Outbox, Stats

__all__ = ["Event", "Flushed", "Outbox", "Stats"]
