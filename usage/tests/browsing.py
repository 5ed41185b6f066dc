"""A staff user at a real browser, for the tests of the pages."""

from __future__ import annotations

import csv
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import (  # type: ignore[import-untyped]  # has no types
    DEFAULT_OPTIONS,
    Axe,
)
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.test import Client
from playwright.sync_api import Dialog, Page

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
ROLES: dict[str, list[str]] = import_module("usage.migrations.0003_roles").ROLES

# On a busy machine; one that has time needs a hundredth of it.
PATIENCE_MILLISECONDS = 120_000
MOST_TABS = 60
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
# A dark page differs from a light one in its colours alone.
RULES_OF_COLOUR = ["color-contrast", "link-in-text-block"]


class Staff:
    """A staff user of one role at a browser."""

    def __init__(self, page: Page, server: str) -> None:
        self.page = page
        self.server = server
        self.complaints: list[str] = []
        self.clicks = 0
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.on("pageerror", lambda error: self._heard("error", str(error)))
        page.on("dialog", self._ran)

    def _heard(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(f"{self.page.url}: {text}")

    def _ran(self, dialog: Dialog) -> None:
        self._heard("error", f"A name ran as a script: {dialog.message}")
        dialog.dismiss()

    def show_on(self, screen: str) -> None:
        """Show this page, and those that follow, on one of the screens, without loading it anew."""
        self.page.emulate_media(color_scheme=SCREENS[screen]["color_scheme"])
        self.page.set_viewport_size(SCREENS[screen]["viewport"])
        # The colours of links change slowly. To wait for that would need frames, and a browser
        # without a window may draw none.
        self.page.evaluate("document.getAnimations().forEach(it => it.finish())")

    def log_in(self, role: str) -> None:
        """Come with the cookie of a session."""
        client = Client()
        client.force_login(self._user(role))
        name = settings.SESSION_COOKIE_NAME
        self.page.context.add_cookies(
            [{"name": name, "value": client.cookies[name].value, "url": self.server}]
        )

    def log_in_by_password(self, role: str) -> None:
        self._user(role)
        self.page.goto(f"{self.server}/admin/")
        self.page.get_by_label("Username").fill("sam")
        self.page.get_by_label("Password").fill("right")
        self.page.get_by_role("button", name="Log in").click()

    def _user(self, role: str) -> User:
        user: User = User.objects.create_user("sam", password="right", is_staff=True)
        user.groups.add(Group.objects.get(name=role))
        return user

    def open(self, path: str) -> None:
        self.page.goto(self.server + path)

    def click(self, name: str, *, role: Any = "link") -> None:
        """Click a link or a button, and count it."""
        self.clicks += 1
        self.page.get_by_role(role, name=name).first.click()

    def fill(self, label: str, text: str) -> None:
        """Click into a field, which counts, and type."""
        self.clicks += 1
        self.page.get_by_label(label).fill(text)

    def download(self, link: str) -> list[dict[str, str]]:
        """Return the rows of the CSV file behind a link."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name=link).click()
        with Path(download.value.path()).open(newline="") as file:
            return list(csv.DictReader(file))

    def tab_to(self, name: str) -> None:
        """Press the Tab key until what is called so has the focus."""
        focused = "document.activeElement.value || document.activeElement.textContent"
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(focused).strip() == name:
                return
        raise AssertionError(f"The Tab key never came to {name!r}.")

    def faults(self) -> list[str]:
        """Return what is wrong with this page on any of the screens."""
        faults = []
        for screen in SCREENS:
            self.show_on(screen)
            rules = RULES_OF_COLOUR if screen == "dark" else None
            found = [*self._inaccessible(rules), *self._too_wide(), *self.cut_tables()]
            faults += [f"{self.page.url}, {screen}: {fault}" for fault in found]
        return faults

    def _too_wide(self) -> list[str]:
        """Tell whether this page must be pushed sideways."""
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        return ["it is too wide"] * self.page.evaluate(wide)

    def cut_tables(self) -> list[str]:
        """Return the tables of this page of which some column is off the screen."""
        cut = """() => [...document.querySelectorAll(".scroll, #changelist .results")]
            .filter(box => box.scrollWidth > box.clientWidth)
            .map(box => `${box.getAttribute("aria-labelledby") || box.className} is cut off`)"""
        return list(self.page.evaluate(cut))

    def _inaccessible(self, rules: list[str] | None) -> list[str]:
        """Return what axe-core finds to be serious on this page, by all or by some of its rules."""
        heard = len(self.complaints)
        axe = Axe(axe_script="") if self.page.evaluate("'axe' in window") else Axe()
        only = {"runOnly": rules} if rules else {}
        found = axe.run(self.page, options=DEFAULT_OPTIONS | only).response["violations"]
        del self.complaints[heard:]  # of the policy, about the styles that axe-core itself tries
        return [
            f"{violation['id']} {[node['html'][:100] for node in violation['nodes']][:3]}"
            for violation in found
            if violation["impact"] in {"serious", "critical"}
        ]
