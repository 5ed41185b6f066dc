"""Who is at the other end of a request that a proxy passed on."""

from ipaddress import IPv6Address, ip_address

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The address that a proxy of ours saw, or that of the connection if it is no such proxy.

    A proxy appends the address it saw to X-Forwarded-For; what stands before may be made up.
    """
    address = str(request.META.get("REMOTE_ADDR", ""))
    seen = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return seen if seen and _is_ours(address) else address


def _is_ours(address: str) -> bool:
    if not address:
        return True  # a Unix socket, which gunicorn trusts too
    proxy = ip_address(address)
    if isinstance(proxy, IPv6Address) and proxy.ipv4_mapped:
        proxy = proxy.ipv4_mapped  # an IPv4 proxy, on a socket of [::]
    return any(network == "*" or proxy in network for network in settings.FORWARDED_ALLOW_IPS)
