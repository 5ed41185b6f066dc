// Reports usage with Go 1.19 or later:
// BILLING_URL=… BILLING_API_KEY=… go run report.go PREFIX COUNT
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Usage is one fact. Decimals are strings, since a float64 would round them.
type Usage struct {
	RequestID     string `json:"request_id"`
	CustomerID    int64  `json:"customer_id"`
	Service       string `json:"service"`
	UnitsConsumed string `json:"units_consumed"`
	PricePerUnit  string `json:"price_per_unit"`
	// A pointer, since an unset time.Time would be sent as year 1. From Go 1.24 on,
	// a time.Time with omitzero does.
	OccurredAt *time.Time `json:"occurred_at,omitempty"`
}

// The default client waits for ever.
var client = &http.Client{Timeout: 10 * time.Second}

func report(usage Usage) error {
	body, err := json.Marshal(usage) // once, before the first try; each try sends these bytes
	if err != nil {
		return err
	}
	wait := 200 * time.Millisecond
	for try := 1; try <= 9; try++ {
		var status int
		var retryAfter time.Duration
		status, retryAfter, err = send(body)
		if status == 200 || status == 201 {
			return nil
		}
		if status != 0 && status != 429 && status < 500 {
			break // final
		}
		if retryAfter < wait {
			retryAfter = wait
		}
		time.Sleep(retryAfter)
		wait *= 2
	}
	// Keep the bytes: send them again later.
	file, failed := os.OpenFile("unsent.txt", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if failed != nil {
		return failed
	}
	defer file.Close()
	if _, failed = file.Write(append(body, '\n')); failed != nil {
		return failed
	}
	return err
}

// send returns the status, 0 if there was no answer: then the fact may be recorded, or not.
func send(body []byte) (int, time.Duration, error) {
	// A new reader for each try: the one of the last try is used up.
	request, err := http.NewRequest(
		"POST", os.Getenv("BILLING_URL")+"/api/v1/usage/", bytes.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("BILLING_API_KEY"))
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body) // to its end, so that the connection is kept
	if err != nil {
		return 0, 0, err
	}
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return answer.StatusCode, time.Duration(seconds) * time.Second,
		fmt.Errorf("%d: %s", answer.StatusCode, said)
}

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	status := 0
	for n := 1; n <= count; n++ {
		now := time.Now().UTC()
		err := report(Usage{
			RequestID:     fmt.Sprintf("%s:%d", os.Args[1], n),
			CustomerID:    9007199254740993,
			Service:       fmt.Sprintf("CDN, region %d", n),
			UnitsConsumed: "1234567.89",
			PricePerUnit:  "0.0000001",
			OccurredAt:    &now,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}
