"""How gunicorn serves, also for `make run`; billing_project/settings.py reads its variables."""

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

# Anew at each reload, and without gunicorn's own reading of the environment, which knows no .env.
_settings = runpy.run_path(str(Path(__file__).parent / "billing_project" / "settings.py"))

workers = _settings["WEB_CONCURRENCY"]
worker_class = "billing_project.workers.FairThreadWorker"
# Half of them may be held by one API key, see usage/api/shares.py.
threads = 16
# Longer than the 8 seconds in which a request gives up, and than the client's patience of 10.
timeout = 30
# Longer than clients and proxies keep an idle connection (Go: 90 seconds, nginx: 60), so that none
# sends a request on a connection that is being closed.
keepalive = 120
# With those to the database and what else is open, fewer than the 1024 files that most systems
# allow a process: gunicorn's default of 1000 leaves too few.
worker_connections = 900
# By default a caller could say through a proxy, in a header SCRIPT_NAME, where the service lies.
forwarder_headers = ""
control_socket_disable = True

# With METRICS_ADDRESS, workers write their metrics into files of one folder, and a process beside
# them serves the sums: see usage/metrics.py.
if _settings["METRICS_ADDRESS"]:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="billing-metrics-"))


def when_ready(_server: Any) -> None:
    """Start the process that serves metrics; it ends by itself with this one."""
    if _settings["METRICS_ADDRESS"]:
        command = [sys.executable, str(Path(__file__).parent / "manage.py"), "serve_metrics"]
        subprocess.Popen(command)  # noqa: S603 - our own command


def post_worker_init(worker: Any) -> None:
    """Keep API keys out of what gunicorn itself logs of a malformed request."""
    from billing_project.log import hide_keys  # noqa: PLC0415 - the worker has loaded the service

    worker.log.error_log.addFilter(hide_keys)


def with_mapped_addresses(proxies: Iterable[IPv4Network | IPv6Network | str]) -> str:
    """Add each IPv4 network as an IPv4 proxy shows it on a socket of [::]: ::ffff:127.0.0.1."""
    mapped = [
        f"::ffff:{network.network_address}/{96 + network.prefixlen}"
        for network in proxies
        if isinstance(network, IPv4Network)
    ]
    return ",".join([*map(str, proxies), *mapped])


forwarded_allow_ips = with_mapped_addresses(_settings["FORWARDED_ALLOW_IPS"])
# The one header that says so. By default gunicorn refuses, as HTML, what comes with
# X-Forwarded-Protocol or -Ssl beside it in words of their own.
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
