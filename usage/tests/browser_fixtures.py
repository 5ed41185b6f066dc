"""Fixtures of the tests in a browser; a test module names this one in `pytest_plugins`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Group, Permission
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from usage.tests.browsing import CHROMIUM, PATIENCE_MILLISECONDS, ROLES, Staff


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for these tests alone: its event loop would be in the way of all that follow.

    Without Chromium the tests are skipped, except where CI is set: there they fail.
    """
    if not CHROMIUM:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("No browser: install chromium, or name one with CHROMIUM=/path/to/it.")
    # Chromium's sandbox does not work for root, as which containers run their tests.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    # Without these it draws every page as a graphics processor would, slowly.
    arguments += ["--disable-gpu", "--disable-software-rasterizer"]
    with pytest.MonkeyPatch.context() as environment, sync_playwright() as playwright:
        # The loop runs in this thread, where Django would refuse to wait for the database.
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def roles(browser: Browser, guards_lifted_for_teardown: None) -> None:
    """The groups, in a database whose transactions are real."""
    for role, permissions in ROLES.items():
        group, _ = Group.objects.get_or_create(name=role)
        group.permissions.set(Permission.objects.filter(codename__in=permissions))


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    """The one for the tests of a file: it keeps the files that each page loads."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    return context


@pytest.fixture(params=["light"])
def staff(
    request: pytest.FixtureRequest, context: BrowserContext, live_server: LiveServer, roles: None
) -> Iterator[Staff]:
    context.clear_cookies()
    sam = Staff(context.new_page(), str(live_server))
    sam.show_on(request.param)
    yield sam
    sam.page.close()
    assert sam.complaints == []
