"""Reports usage to the billing service, each fact exactly once."""

import logging

from billing_client.client import BillingClient
from billing_client.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    FieldError,
    OutboxError,
    OutboxFull,
    RateLimitedError,
    UnavailableError,
    ValidationError,
)
from billing_client.outbox import Event, Flushed, OutboxWarning, Resent, Stats
from billing_client.receipts import Receipt, Receipts
from billing_client.usage import Usage
from billing_client.version import __version__

__all__ = [
    "AuthenticationError",
    "BillingClient",
    "BillingError",
    "ConfigurationError",
    "ConflictError",
    "CustomerNotFoundError",
    "Event",
    "FieldError",
    "Flushed",
    "OutboxError",
    "OutboxFull",
    "OutboxWarning",
    "RateLimitedError",
    "Receipt",
    "Receipts",
    "Resent",
    "Stats",
    "UnavailableError",
    "Usage",
    "ValidationError",
    "__version__",
]

# A library leaves it to the application whether its log goes anywhere.
logging.getLogger(__name__).addHandler(logging.NullHandler())
