"""Usage that waits on disk until the service has it, however long that takes."""

from billing_client.outbox.events import Event, Flushed, OutboxWarning, Resent, Stats
from billing_client.outbox.outbox import Outbox

__all__ = ["Event", "Flushed", "Outbox", "OutboxWarning", "Resent", "Stats"]
