// What the official client of Midtrans makes of a notification: it asks for the status. Whether it was signed is computed
// as the documents say, of the notification and of the answer.
import midtrans from "midtrans-client";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const { base, serverKey, clientKey, notification } = JSON.parse(readFileSync(0, "utf8"));
const api = new midtrans.CoreApi({ isProduction: false, serverKey, clientKey });
api.apiConfig.getCoreApiBaseUrl = () => base;

const isSigned = ({ order_id, status_code, gross_amount, signature_key }) =>
  createHash("sha512").update(order_id + status_code + gross_amount + serverKey).digest("hex") === signature_key;

const answer = await api.transaction.notification(notification);
console.log(
  JSON.stringify({
    status: answer.transaction_status,
    signed: isSigned(JSON.parse(notification)),
    asked: isSigned(answer),
  }),
);
