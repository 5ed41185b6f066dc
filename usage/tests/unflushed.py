"""The service's application for tests that look at every statement: none is sent in between."""

from billing_project.wsgi import application
from usage.api.traffic import traffic

__all__ = ["application"]

traffic.every = 24 * 60 * 60
