"""``python -m billing_client``: the command ``billing-client``."""

from __future__ import annotations

import sys

from billing_client.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
