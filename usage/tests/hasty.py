"""The service's application with a deadline that the test gives, in seconds."""

import os

from billing_project.wsgi import application
from usage.database import deadline

__all__ = ["application"]

deadline.REQUEST_SECONDS = float(os.environ["HASTY_SECONDS"])
