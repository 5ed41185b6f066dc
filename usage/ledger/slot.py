"""Which rows of daily usage this process adds to.

Processes that add to the same row wait for each other's commits, so each has a slot of its own as
far as there are slots. Process ids would not do, since two may share a slot: the server numbers its
workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

# Replaced by a server before the first request.
process_number: Callable[[], int] = os.getpid
