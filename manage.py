#!/usr/bin/env python
"""Runs the administrative commands of the service."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line


def main() -> None:
    """Runs the command of the command line; a wrong setting ends it with its one sentence."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
