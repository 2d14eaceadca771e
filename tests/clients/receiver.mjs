// The published library of Standard Webhooks for JavaScript: is this post what its sender signed? One question on standard
// input, as JSON: the secret, the headers, the body. Answers "good", or why not.
import { Webhook } from "standardwebhooks";
import { readFileSync } from "node:fs";

const { secret, headers, body } = JSON.parse(readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(body, headers);
  console.log("good");
} catch (error) {
  console.log(String(error.message ?? error));
}
