"""The service as a WSGI application, for `gunicorn billing_project.wsgi`."""

import os
from typing import TYPE_CHECKING, Any

from django.core.wsgi import get_wsgi_application

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")

django_application = get_wsgi_application()


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
    """Django's application, which may ask for the connection to be closed after an answer.

    The header that says so is the server's own (PEP 3333): gunicorn drops it from an application
    and wants to be told by its response object, other servers refuse it.
    """
    # Django fails on a malformed parameter of this kind (RFC 2231) before anything can answer;
    # no answer of the service depends on one.
    if "*" in environ.get("CONTENT_TYPE", ""):
        environ["CONTENT_TYPE"] = ""

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "connection"]
        if len(kept) < len(headers):
            force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
            if force_close is not None:
                force_close()
        return start_response(status, kept, exc_info)

    return django_application(environ, start)
