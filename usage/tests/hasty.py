"""The service's application with a deadline that the test gives, in seconds.

One API key may hold all threads: the tests have one key. A worker sets that as it starts, so it
must load this afterwards, and not be a fork of a process that has.
"""

import os
import sys

from billing_project.wsgi import application
from usage.api.shares import shares
from usage.database import deadline

__all__ = ["application"]

shares.requests = sys.maxsize
deadline.REQUEST_SECONDS = float(os.environ["HASTY_SECONDS"])
