#!/bin/sh
# Reports usage with curl 7.82 or later: BILLING_URL=… BILLING_API_KEY=… sh report.sh PREFIX COUNT
#
# 200 and 201 are done. curl itself waits for Retry-After, else 1 second, doubled with each try.
# There is no -o, since with --retry the output of a failed try would stay in that file.
set -u
prefix=$1 count=$2 status=0
occurred_at=$(date -u +%Y-%m-%dT%H:%M:%SZ)

for n in $(seq "$count"); do
    # Made once, before the first try; each try sends these bytes.
    body=$(printf '{"request_id": "%s:%d", "customer_id": 9007199254740993, "service": "CDN, region %d", ' \
        "$prefix" "$n" "$n"
        printf '"units_consumed": "1234567.89", "price_per_unit": "0.0000001", "occurred_at": "%s"}' \
            "$occurred_at")
    # The key comes by a pipe, since everyone on the machine sees a command's arguments.
    printf 'header = "Authorization: Bearer %s"\n' "$BILLING_API_KEY" |
        curl --silent --show-error --config - --json "$body" --fail-with-body \
            --retry 6 --retry-all-errors --max-time 10 "$BILLING_URL/api/v1/usage/" ||
        { printf '%s\n' "$body" >>unsent.txt; status=1; } # keep the bytes: send them again later
    echo
done
exit $status
