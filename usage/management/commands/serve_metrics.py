"""Serves metrics to Prometheus, on an address of their own."""

from __future__ import annotations

import os
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from prometheus_client import CollectorRegistry, start_http_server

from usage.exposition import DatabaseCollector, WorkersCollector

_LOOK_SECONDS = 1.0


class Command(BaseCommand):
    """Runs until it is stopped, or until the process that started it has ended.

    gunicorn starts it when METRICS_ADDRESS is set. It is a process of its own, so that a scrape
    takes no time from the workers, and waits for none of them.
    """

    help = "Serves metrics at METRICS_ADDRESS, until it is stopped or its parent has ended."

    def handle(self, **options: Any) -> None:
        """Serve the workers' files and the figures that the database gives."""
        if settings.METRICS_ADDRESS is None:
            raise CommandError("METRICS_ADDRESS is not set: set it, for example to 127.0.0.1:9464.")
        registry = CollectorRegistry()
        if directory := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry.register(WorkersCollector(directory))
        registry.register(DatabaseCollector())
        host, port = settings.METRICS_ADDRESS
        parent = os.getppid()
        try:
            start_http_server(port, host, registry)
        except OSError as error:
            raise CommandError(
                f"METRICS_ADDRESS {host}:{port} cannot be served: {error.strerror}. Choose an"
                " address of this host that is free."
            ) from error
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
