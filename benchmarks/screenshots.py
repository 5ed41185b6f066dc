"""Takes the pictures in docs/: `python -m benchmarks.screenshots`, or `make screenshots`.

A throwaway database is filled like that of the demo, at a fixed instant; the service
runs in this process, and Chromium looks at it.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

from benchmarks.databases import ROOT
from benchmarks.demo import FIRST_CUSTOMER, NAME, PASSWORD, clock_at, fill

NOW = dt.datetime(2026, 11, 23, 14, 30, tzinfo=dt.UTC)
PICTURES = {"dashboard": 1500, "bill": 1500, "records": 760}


@contextmanager
def served() -> Iterator[str]:
    """The service, in a thread of this process; yields its address."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: PLC0415
    from django.test.testcases import LiveServerThread  # noqa: PLC0415

    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    if server.error:
        raise server.error
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.terminate()
        server.join()


def take(address: str, folder: Path, *, chromium: str) -> None:
    """Log in and write a picture of each page."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    from usage.models import Bill  # noqa: PLC0415

    bill = Bill.objects.get(customer=FIRST_CUSTOMER, month=dt.date(2026, 11, 1)).pk
    pages = {
        "dashboard": "/admin/",
        "bill": f"/admin/usage/bill/{bill}/change/",
        "records": f"/admin/usage/usagerecord/?bill={bill}",
    }
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/admin/")
        page.get_by_label("Username").fill(NAME)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        for name, path in pages.items():
            page.goto(address + path)
            page.set_viewport_size({"width": 1280, "height": PICTURES[name]})
            page.screenshot(path=folder / f"{name}.png")
        browser.close()


def main() -> None:
    """Fill a database, start the service, take the pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("No browser: install chromium, or name one with CHROMIUM=/path/to/it.")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DATABASE_URL": f"sqlite:///{folder}/pictures.sqlite3", "DEBUG": "1"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "billing_project.settings"
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs in this thread
        django.setup()
        logging.disable()
        fill(NOW, months=3, records=30_000)
        from usage.models import ApiKey  # noqa: PLC0415

        ApiKey.objects.update(prefix="5f0c2a91")  # which is random, and on the pictures
        with clock_at(NOW), served() as address:
            take(address, ROOT / "docs", chromium=chromium)


if __name__ == "__main__":
    main()
