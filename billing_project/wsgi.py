"""The service as a WSGI application, for `gunicorn billing_project.wsgi`."""

import gc
import os
from typing import TYPE_CHECKING, Any

from django.core.wsgi import get_wsgi_application

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")

django_application = get_wsgi_application()

from billing_project import endpoint  # noqa: E402 - only now are its models loaded

django_application.request_class = endpoint.LenientRequest
answer_endpoint = endpoint.Endpoint(django_application)

# Optimisation: what is loaded by now stays for ever, so the garbage collector need not look through
# it again and again; nor so often through the records of a batch while they are made, which hold no
# cycles. With a threshold of 50,000 it was done so seldom that the garbage of single requests held
# all up for 50 ms. Without it each record of a batch of 100 takes 1.06 times the processor time,
# PostgreSQL's included, and beside one busy key other keys' p99 is 1.3 times as high. To measure
# it, run `python -m benchmarks --without frozen-heap`.
gc.collect()
gc.freeze()
gc.set_threshold(2_000)


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
    """Serve a request; an answer with `Connection: close` closes the connection.

    That header belongs to the server (PEP 3333): gunicorn drops it from an application's answer,
    and closes a connection if its response object is told so. Other servers refuse the header.
    """

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "connection"]
        if len(kept) < len(headers):
            force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
            if force_close is not None:
                force_close()
        return start_response(status, kept, exc_info)

    if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] in endpoint.PATHS:
        return answer_endpoint(environ, start)
    response = django_application(environ, start)
    if environ["REQUEST_METHOD"] != "HEAD":
        return response
    response.close()
    return ()  # gunicorn drops the body of an answer to HEAD, but logs a warning of each
