"""How gunicorn serves, also for `make run`; WEB_CONCURRENCY sets the number of workers."""

worker_class = "billing_project.workers.FairThreadWorker"
threads = 8
# Longer than the 8 seconds in which a request gives up, and than the client's patience of 10.
timeout = 30
# Longer than clients and proxies keep an idle connection, so that none meets one being closed.
keepalive = 75
# By default a caller could say through a proxy, in a header SCRIPT_NAME, where the service lies.
forwarder_headers = ""
control_socket_disable = True
