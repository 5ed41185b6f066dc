"""Who is at the other end of a request that a proxy passed on."""

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The address that a proxy of ours saw, or that of the connection if it is no such proxy.

    A proxy appends the address it saw to X-Forwarded-For; what stands before may be made up.
    """
    address = str(request.META.get("REMOTE_ADDR", ""))
    seen = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    trusted = settings.FORWARDED_ALLOW_IPS
    return seen if seen and (address in trusted or "*" in trusted) else address
