"""Reports usage with requests: BILLING_URL=… BILLING_API_KEY=… python report.py PREFIX COUNT."""

import datetime as dt
import json
import os
import sys
import time
from decimal import Decimal

import requests

URL = os.environ["BILLING_URL"] + "/api/v1/usage/"
session = requests.Session()  # keeps its connection
session.headers["Authorization"] = "Bearer " + os.environ["BILLING_API_KEY"]
session.headers["Content-Type"] = "application/json"


def report(usage: dict[str, object]) -> None:
    body = json.dumps(usage).encode()  # once, before the first try; each try sends these bytes
    wait = 0.2
    for _ in range(9):
        try:
            answer = session.post(URL, body, timeout=10)
        except requests.RequestException as error:  # no answer: it may be recorded, or not
            status, said, retry_after = 0, str(error), ""
        else:
            status, said = answer.status_code, answer.text
            retry_after = answer.headers.get("Retry-After", "")
        if status in (200, 201):
            return
        if status and status != 429 and status < 500:
            break  # final: the same again would be answered the same
        time.sleep(max(float(retry_after) if retry_after.isdecimal() else 0, wait))
        wait *= 2
    with open("unsent.txt", "ab") as file:  # keep the bytes: send them again later
        file.write(body + b"\n")
    raise RuntimeError(f"{status}: {said}")


prefix, count = sys.argv[1], int(sys.argv[2])
failed = 0
for n in range(1, count + 1):
    usage = {
        "request_id": f"{prefix}:{n}",
        "customer_id": 9007199254740993,
        "service": f"CDN, region {n}",
        # str() would write 1E-7, and a float would round.
        "units_consumed": f"{Decimal('1234567.89'):f}",
        "price_per_unit": f"{Decimal('0.0000001'):f}",
        # With its offset; a datetime without one is refused.
        "occurred_at": dt.datetime.now(dt.timezone.utc).isoformat(),
    }
    try:
        report(usage)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        failed = 1
sys.exit(failed)
