// Reports usage with Java 17 or later:
// BILLING_URL=… BILLING_API_KEY=… java Report.java PREFIX COUNT

import java.io.IOException;
import java.math.BigDecimal;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.time.Instant;

public class Report {
    // Both timeouts are needed: one for the connection, one for the answer.
    static final HttpClient CLIENT = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(5))
            .build();

    static void report(String usage) throws IOException, InterruptedException {
        byte[] body = usage.getBytes("UTF-8"); // once, before the first try; each try sends these
        HttpRequest request = HttpRequest.newBuilder()
                .uri(URI.create(System.getenv("BILLING_URL") + "/api/v1/usage/"))
                .timeout(Duration.ofSeconds(10))
                .header("Authorization", "Bearer " + System.getenv("BILLING_API_KEY"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofByteArray(body))
                .build();
        int status = 0;
        String said = "";
        long wait = 200;
        for (int attempt = 1; attempt <= 9; attempt++, wait *= 2) {
            long retryAfter = 0;
            try {
                HttpResponse<String> answer =
                        CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
                status = answer.statusCode();
                said = answer.body();
                String seconds = answer.headers().firstValue("Retry-After").orElse("");
                retryAfter = seconds.matches("[0-9]{1,6}") ? 1000 * Long.parseLong(seconds) : 0;
            } catch (IOException error) {
                status = 0; // no answer: it may be recorded, or not
                said = error.toString();
            }
            if (status == 200 || status == 201) {
                return;
            }
            if (status != 0 && status != 429 && status < 500) {
                break; // final
            }
            Thread.sleep(Math.max(retryAfter, wait));
        }
        // Keep the bytes: send them again later.
        Files.writeString(Path.of("unsent.txt"), usage + "\n",
                StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        throw new IOException(status + ": " + said);
    }

    // Without a JSON library; with Jackson, @JsonInclude(NON_NULL) leaves out an unset occurred_at.
    static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    public static void main(String[] arguments) throws InterruptedException {
        int status = 0;
        for (int n = 1; n <= Integer.parseInt(arguments[1]); n++) {
            String usage = "{\"request_id\": " + quoted(arguments[0] + ":" + n)
                    + ", \"customer_id\": " + 9007199254740993L
                    + ", \"service\": " + quoted("CDN, region " + n)
                    // toString() would write 1E-7.
                    + ", \"units_consumed\": " + quoted(new BigDecimal("1234567.89").toPlainString())
                    + ", \"price_per_unit\": " + quoted(new BigDecimal("0.0000001").toPlainString())
                    // OffsetDateTime.toString() leaves out the seconds of a full minute.
                    + ", \"occurred_at\": " + quoted(Instant.now().toString()) + "}";
            try {
                report(usage);
            } catch (IOException error) {
                System.err.println(error.getMessage());
                status = 1;
            }
        }
        System.exit(status);
    }
}
