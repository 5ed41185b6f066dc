"""``python -m billing_client``: looks into an outbox directory, and empties it by hand."""

from __future__ import annotations

import sys

from billing_client.outbox.commands import main

if __name__ == "__main__":
    sys.exit(main())
