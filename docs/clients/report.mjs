// Reports usage with Node 18 or later: BILLING_URL=… BILLING_API_KEY=… node report.mjs PREFIX COUNT
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

async function report(usage) {
  const body = JSON.stringify(usage); // once, before the first try; each try sends these bytes
  let status, said;
  for (let attempt = 1, wait = 200; attempt <= 9; attempt++, wait *= 2) {
    let retryAfter = 0;
    try {
      const answer = await fetch(process.env.BILLING_URL + "/api/v1/usage/", {
        method: "POST",
        headers: {
          Authorization: `Bearer ${process.env.BILLING_API_KEY}`,
          "Content-Type": "application/json", // fetch would say text/plain
        },
        body,
        signal: AbortSignal.timeout(10_000), // fetch would wait for minutes
      });
      status = answer.status;
      retryAfter = 1000 * Number(answer.headers.get("Retry-After")) || 0;
      said = await answer.text(); // read to its end, so that the connection is kept
    } catch (error) {
      status = 0; // no answer: it may be recorded, or not
      said = String(error.cause ?? error);
    }
    if (status === 200 || status === 201) return;
    if (status && status !== 429 && status < 500) break; // final
    await sleep(Math.max(retryAfter, wait));
  }
  appendFileSync("unsent.txt", body + "\n"); // keep the bytes: send them again later
  throw new Error(`${status}: ${said}`);
}

const [prefix, count] = process.argv.slice(2);
for (let n = 1; n <= Number(count); n++) {
  try {
    await report({
      request_id: `${prefix}:${n}`,
      customer_id: String(9007199254740993n), // a number is exact only up to 2^53
      service: `CDN, region ${n}`,
      units_consumed: (1234567.89).toFixed(2),
      price_per_unit: (0.0000001).toFixed(7), // String() would write 1e-7
      occurred_at: new Date().toISOString(),
    });
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
