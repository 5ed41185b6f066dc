"""deploy/Containerfile: what it copies is there, and enough to serve."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
TEXT = (ROOT / "deploy/Containerfile").read_text()
COPIED = [
    name for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for name in line.split()
]
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The image's folder of the service."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            skipped = [Path(line).name for line in IGNORED if line.startswith((f"{name}/", "**/"))]
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(*skipped))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_what_is_copied_and_nothing_else_is_sent_to_the_build() -> None:
    assert IGNORED[1] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == set(COPIED)


@pytest.mark.live
def test_its_command_starts_with_what_is_copied_alone(image: Path) -> None:
    program, *arguments = json.loads(re.findall(r"^ENTRYPOINT (.+)$", TEXT, re.MULTILINE)[0])
    assert program == "/srv/billing/.venv/bin/gunicorn"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")
    } | {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "SECRET_KEY": "x" * 50}

    subprocess.run(
        [sys.executable, "-m", "gunicorn", *arguments, "--check-config"],
        cwd=image,
        env=environment,
        check=True,
        timeout=60,
    )
