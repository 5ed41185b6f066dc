"""The WSGI application and what its process needs, for `gunicorn billing_project.wsgi`."""

import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
django.setup(set_prefix=False)

from billing_project.endpoint import Application  # noqa: E402 - only now are its models loaded

application = Application()

# Optimisation: what is loaded by now stays for ever, so the garbage collector need not look through
# it again and again; nor so often through the records of a batch while they are made, which hold no
# cycles. With a threshold of 50,000 it was done so seldom that the garbage of single requests held
# all up for 50 ms. Without it each record of a batch of 100 takes 1.06 times the processor time,
# PostgreSQL's included, and beside one busy key other keys' p99 is 1.3 times as high. To measure
# it, run `python -m benchmarks --without frozen-heap`.
gc.collect()
gc.freeze()
gc.set_threshold(2_000)
