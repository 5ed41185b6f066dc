"""How gunicorn serves, also for `make run`; WEB_CONCURRENCY sets the number of workers."""

import os
import subprocess
import sys
import tempfile
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

worker_class = "billing_project.workers.FairThreadWorker"
threads = 8
# Longer than the 8 seconds in which a request gives up, and than the client's patience of 10.
timeout = 30
# Longer than clients and proxies keep an idle connection (Go: 90 seconds, nginx: 60), so that none
# sends a request on a connection that is being closed.
keepalive = 120
# By default a caller could say through a proxy, in a header SCRIPT_NAME, where the service lies.
forwarder_headers = ""
control_socket_disable = True

# With METRICS_ADDRESS, workers write their metrics into files of one folder, and a process beside
# them serves the sums: see usage/metrics.py.
if os.environ.get("METRICS_ADDRESS"):
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="billing-metrics-"))


def when_ready(_server: Any) -> None:
    """Start the process that serves metrics; it ends by itself with this one."""
    if os.environ.get("METRICS_ADDRESS"):
        command = [sys.executable, str(Path(__file__).parent / "manage.py"), "serve_metrics"]
        subprocess.Popen(command)  # noqa: S603 - our own command


def with_mapped_addresses(proxies: str) -> str:
    """Add each IPv4 network as an IPv4 proxy shows it on a socket of [::]: ::ffff:127.0.0.1."""
    networks = [ip_network(text.strip()) for text in proxies.split(",") if text.strip() != "*"]
    mapped = [
        f"::ffff:{network.network_address}/{96 + network.prefixlen}"
        for network in networks
        if isinstance(network, IPv4Network)
    ]
    return ",".join([proxies, *mapped])


forwarded_allow_ips = with_mapped_addresses(os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1"))
