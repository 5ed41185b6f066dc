"""The pages for whoever changes the code name files and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
PACKAGES = ("usage", "billing_project", "billing_client", "benchmarks")
PAGES = ("CONTRIBUTING.md", "docs/architecture.md")


@pytest.mark.parametrize("page", PAGES)
def test_each_name_is_one_of_the_code(page: str) -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    code = {word for path in files for word in re.findall(r"\w+", path.read_text())}

    named = re.findall(r"`([A-Za-z_][\w.]*?)(?:\(\))?`", (ROOT / page).read_text())

    files_named = {path.name for path in files} | {path.name for path in ROOT.iterdir()}
    assert [
        name for name in named if name not in files_named and name.rpartition(".")[2] not in code
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_each_path_exists(page: str) -> None:
    paths = re.findall(r"`([\w.]+/[\w./]*)`", (ROOT / page).read_text())

    assert [path for path in paths if not (ROOT / path).exists()] == []
