"""Who is at the other end of a request that a proxy passed on."""

from ipaddress import IPv6Address, ip_address

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """The address that a proxy of ours saw, or the connection's if that is not a proxy.

    A proxy appends the address it saw to X-Forwarded-For; what comes before may be made up.
    Returns None on a Unix socket without an address in that header.
    """
    address = str(request.META.get("REMOTE_ADDR", ""))
    if address:  # else it is a Unix socket, which gunicorn trusts too
        proxy = ip_address(address)
        if isinstance(proxy, IPv6Address) and proxy.ipv4_mapped:
            proxy = proxy.ipv4_mapped  # an IPv4 proxy, on a socket of [::]
        ours = settings.FORWARDED_ALLOW_IPS
        if not any(network == "*" or proxy in network for network in ours):
            return address
    # Proxies write 203.0.113.9, 203.0.113.9:51234, 2001:db8::1 or [2001:db8::1]:51234.
    seen = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    bracketed, is_bracketed, _ = seen.removeprefix("[").partition("]")
    if is_bracketed:
        seen = bracketed
    elif seen.count(":") == 1:
        seen = seen.partition(":")[0]
    try:
        return str(ip_address(seen.partition("%")[0]))  # a zone is of the proxy's machine alone
    except ValueError:
        # Any other text is not used: databases have columns for addresses alone.
        return address or None
