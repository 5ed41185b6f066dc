"""One HTTP exchange with the service: bytes out, a whole answer in, nothing retried."""

from __future__ import annotations

import ssl
from http.cookiejar import DefaultCookiePolicy
from typing import NoReturn
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from billing_client.answers import Answer, quoted
from billing_client.config import Limits
from billing_client.connections import Attempt, TimedAdapter, current_attempt
from billing_client.errors import BillingError, ConfigurationError, UnavailableError
from billing_client.processes import Process
from billing_client.version import __version__

# The results of 1000 records are far shorter; a longer answer is not the service's.
LARGEST_ANSWER = 16 * 1024 * 1024
_HEADERS = {
    "Accept": "application/json, application/problem+json",
    # Compression gains nothing for small answers, and lets a hostile one grow.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"billing-client/{__version__} python-requests/{requests.__version__}",
}
_SECRET_LENGTH = 16
_OF_THE_NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError)
_TLS_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_BAD_ADDRESS = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationValueError,
)
_UNPARSED = (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError)


class _BearerKey(AuthBase):
    """Sets the key; without an auth object requests would look for one in ~/.netrc."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def __repr__(self) -> str:
        return "<API key>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An API key is not pickled; make a client in each process.")

    def hidden_in(self, body: bytes) -> bytes:
        """The answer without the key: debugging proxies echo it, and errors quote answers.

        A key too short to be a secret may be a part of ordinary words, and stays.
        """
        if len(self._key) < _SECRET_LENGTH:
            return body
        return body.replace(self._key.encode(), b"[API key]")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: a redirect is an answer to report, and its target is never even parsed."""


class Transport:
    """Posts to one address with one key; may be shared between threads.

    All threads share one session. Its connection pools are made for that, and the rest of it is
    never changed after it is made (cookies are refused). A session for each thread would
    connect anew for every short-lived thread of a web server.
    """

    def __init__(self, endpoint: str, api_key: str, limits: Limits) -> None:
        self.endpoint = endpoint
        self._auth = _BearerKey(api_key)
        self._limits = limits
        self._closed = False
        self._sessions: dict[tuple[int, int], requests.Session] = {}

    def prepare(self, body: bytes, *, trace_id: str) -> requests.PreparedRequest:
        """The request with all its bytes.

        Raises ConfigurationError if the address cannot be used.
        """
        headers = {**_HEADERS, "X-Request-ID": trace_id}
        request = requests.Request("POST", self.endpoint, headers, data=body, auth=self._auth)
        failure: BillingError
        try:
            return self._session().prepare_request(request)
        except _BAD_ADDRESS as error:
            failure = self._failure(error, sent=False)
        raise failure

    def post(self, request: requests.PreparedRequest, *, seconds: float) -> Answer:
        """Send it once, for ``seconds`` at most, name resolution aside.

        Raises UnavailableError, ambiguous if any byte may have left, when no whole answer came;
        ConfigurationError when none can come.
        """
        attempt = Attempt(seconds)
        token = current_attempt.set(attempt)
        failure: BillingError
        try:
            session = self._session()
            settings = session.merge_environment_settings(
                request.url, proxies={}, stream=True, verify=None, cert=None
            )
            _check_proxy(requests.utils.select_proxy(str(request.url), settings["proxies"]))
            timeout = (min(self._limits.connect, seconds), min(self._limits.read, seconds))
            with session.send(
                request, timeout=timeout, allow_redirects=False, **settings
            ) as response:
                body = self._auth.hidden_in(_body(response))
                return Answer(response.status_code, response.headers, body)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = self._failure(error, sent=attempt.sent)
        finally:
            current_attempt.reset(token)
        # Raised outside of except: the original, whose request has the key, is then no context.
        raise failure

    def close(self) -> None:
        """Close this process's connections; any later use raises ConfigurationError."""
        self._closed = True
        session = self._sessions.get(Process.name())
        if session is not None:
            session.close()

    def _session(self) -> requests.Session:
        """This process's session; the lookup needs no lock, which a fork could leave taken.

        A parent's session stays in the child, unused: to drop it would take the locks of its
        pools, which another thread of the parent may have held at the fork.
        """
        if self._closed:
            raise ConfigurationError("This billing client is closed; make a new one.")
        session = self._sessions.get(Process.name())
        if session is None:
            session = _Session()
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            for scheme in ("https://", "http://"):
                session.mount(scheme, TimedAdapter())
            # Of threads that come first at once, all take the session of one.
            session = self._sessions.setdefault(Process.name(), session)
        return session

    def _failure(self, error: Exception, *, sent: bool) -> BillingError:
        root = _root(error)
        # The text of the error may quote an answer that is not HTTP.
        said = quoted(self._auth.hidden_in(str(root).encode(errors="replace")).decode())
        if isinstance(root, _UNPARSED):
            said = ""  # an address that could not be parsed may have a password anywhere
        reason = f"{type(root).__name__}: {said}" if said else type(root).__name__
        if isinstance(error, requests.exceptions.ProxyError):
            reason += ", at the proxy"
        # requests raises OSError for a missing CA bundle.
        if isinstance(error, _BAD_ADDRESS) or not isinstance(error, _OF_THE_NETWORK):
            return ConfigurationError(
                f"The billing service cannot be called: {reason}; "
                "correct the URL, proxy or CA bundle."
            )
        if isinstance(root, ssl.SSLError) and not isinstance(root, _TLS_HUNG_UP) and not sent:
            return ConfigurationError(
                f"TLS to the billing service failed: {reason}; check the URL and the certificates."
            )
        return UnavailableError(
            f"No whole answer came from the billing service: {reason}; "
            "resend later under the same id.",
            ambiguous=sent,
        )


def _check_proxy(address: str | None) -> None:
    """Raise ConfigurationError if requests or urllib3 would fail to parse a proxy's address.

    Their errors quote it, and may quote its password.
    """
    if address is None:
        return
    try:
        address.encode("latin-1")  # as the user and the password go into a header
        with_scheme = requests.utils.prepend_scheme_if_needed(address, "http")  # type: ignore[no-untyped-call]
        urlsplit(address)  # requests uses both parsers, which accept different texts
        is_sound = bool(urllib3.util.parse_url(with_scheme).host)
    except (TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise ConfigurationError(
            "The proxy's address is malformed; correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, in"
            " which a password has to be percent-encoded. It is not quoted here, because it may"
            " hold one."
        )


def _body(response: requests.Response) -> bytes:
    body = bytearray()
    for part in response.iter_content(64 * 1024):
        body += part
        if len(body) > LARGEST_ANSWER:
            raise requests.exceptions.ContentDecodingError(
                "the answer is too long to be the service's"
            )
    return bytes(body)


def _root(error: BaseException) -> BaseException:
    """The innermost cause, under the layers of requests and urllib3."""
    for _ in range(10):
        inside = getattr(error, "reason", None), *error.args, error.__cause__
        deeper = next((part for part in inside if isinstance(part, BaseException)), None)
        if deeper is None:
            break
        error = deeper
    return error
