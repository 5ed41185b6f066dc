"""Programs of the system that a test needs beside Python."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of a program; without it, the test is skipped, or fails where CI is set.

    `.ci/run` installs them all, so there a missing one is a fault.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: install it in .ci/run.")
        pytest.skip(f"{name} is not installed.")
    return path
