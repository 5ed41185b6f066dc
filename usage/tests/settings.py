"""The settings of the service as every test sees them, whatever the environment or .env say.

Only DATABASE_URL is the caller's choice. The values are put into the environment, so that a
process that a test starts has them too.
"""

import os
from typing import Any, cast

os.environ["DEBUG"] = "1"
os.environ["SECRET_KEY"] = "a key that the tests alone use"
os.environ["BILLING_TIME_ZONE"] = "UTC"
os.environ["BILLING_GRACE_DAYS"] = "3"
os.environ["SECURE_SSL_REDIRECT"] = "0"
os.environ["SECURE_COOKIES"] = "0"
os.environ["SECURE_HSTS_SECONDS"] = "0"
os.environ["ALLOWED_HOSTS"] = ""
os.environ["CSRF_TRUSTED_ORIGINS"] = ""
os.environ.setdefault("DATABASE_URL", "sqlite:///db.sqlite3")

from billing_project.settings import *  # noqa: F403 - after the environment is set

# On SQLite the test database lies in memory: a name that is no file's needs no suffix per process.
default = cast("dict[str, Any]", DATABASES["default"])  # noqa: F405 - from the settings
if default["ENGINE"] == "usage.database.sqlite":
    default["TEST"] = {"NAME": ":memory:"}

# Hashing a password the way production does takes longer than most tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# A cached page would let a test see the data of another.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
