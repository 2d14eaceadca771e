// The official client of Xendit. It speaks Payments v2 for requests, and what v3 has as well for refunds and transactions.
// One question on standard input, as JSON; one answer, as JSON.
import { PaymentRequest, Refund, Transaction, Xendit } from "xendit-node";
import { readFileSync } from "node:fs";

const { base, secretKey } = JSON.parse(readFileSync(0, "utf8"));
console.warn = () => {}; // It warns of keys that are for tests.
const client = (key) => new Xendit({ secretKey: key, xenditURL: base });
const xendit = client(secretKey);
const said = {};
const refusal = (promise) => promise.then(() => "no refusal", (error) => [error.status, error.errorCode]);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (ask, is) => {
  for (let tries = 0; tries < 100; tries++) {
    const answer = await ask();
    if (is(answer)) return answer;
    await pause(100);
  }
  throw new Error("it never came");
};
if (![PaymentRequest, Refund, Transaction].every((it) => typeof it === "function")) throw new Error("another package");

const made = await xendit.PaymentRequest.createPaymentRequest({
  data: {
    referenceId: "V2-1",
    amount: 48500,
    currency: "IDR",
    country: "ID",
    metadata: { till: "K01" },
    paymentMethod: { type: "QR_CODE", reusability: "ONE_TIME_USE", qrCode: { channelCode: "QRIS" } },
  },
});
said.made = [made.status, made.paymentMethod.qrCode.channelCode, made.amount];
said.qr = made.paymentMethod.qrCode.channelProperties.qrString;

const account = await xendit.PaymentRequest.createPaymentRequest({
  data: {
    referenceId: "V2-2",
    amount: 20000,
    currency: "IDR",
    paymentMethod: {
      type: "VIRTUAL_ACCOUNT",
      reusability: "ONE_TIME_USE",
      virtualAccount: { channelCode: "BNI", channelProperties: { customerName: "Budi" } },
    },
  },
});
said.account = [account.status, account.paymentMethod.virtualAccount.channelCode];
if (!/^\d{16}$/.test(account.paymentMethod.virtualAccount.channelProperties.virtualAccountNumber)) throw new Error("no number");

const id = made.id;
said.simulated = (await xendit.PaymentRequest.simulatePaymentRequestPayment({ paymentRequestId: id })).status;
const get = () => xendit.PaymentRequest.getPaymentRequestByID({ paymentRequestId: id });
said.paid = (await until(get, ({ status }) => status !== "PENDING")).status;
said.found = (await xendit.PaymentRequest.getAllPaymentRequests({ referenceId: ["V2-1"] })).data.length;

const refund = await xendit.Refund.createRefund({
  idempotencyKey: "k-1",
  data: { paymentRequestId: id, referenceId: "RF-1", currency: "IDR", amount: 8500, reason: "REQUESTED_BY_CUSTOMER" },
});
said.refund = [refund.status ?? "PENDING", refund.amount];
said.inProgress = await refusal(
  xendit.Refund.createRefund({ data: { paymentRequestId: id, currency: "IDR", amount: 1, reason: "OTHERS" } }),
);
// The package's model of a refund has no status, so it is read from the answer itself.
const raw = async () => (await (await xendit.Refund.getRefundRaw({ refundID: refund.id })).raw.json()).status;
said.refunded = await until(raw, (status) => status !== "PENDING");
said.refunds = (await xendit.Refund.getAllRefunds({ paymentRequestId: id })).data.length;

said.nobody = await refusal(xendit.PaymentRequest.getPaymentRequestByID({ paymentRequestId: "pr-nobody" }));
said.wrongKey = await refusal(client("xnd_development_wrong").PaymentRequest.getPaymentRequestByID({ paymentRequestId: id }));

const { data } = await xendit.Transaction.getAllTransactions({ types: ["PAYMENT"], referenceId: "V2-1" });
said.moved = [data[0].type, data[0].amount];
const one = await xendit.Transaction.getTransactionByID({ id: data[0].id });
if (one.productId !== data[0].productId || !(one.created instanceof Date)) throw new Error("another transaction");

// Its model of a webhook reads ours.
const { PaymentCallbackFromJSON } = await import("xendit-node/payment_request/models/index.js").then((it) => it.default ?? it);
const { deliveries } = await (await fetch(`${base}/_sim/deliveries?payment=${id}`)).json();
const body = JSON.parse(deliveries.find(({ event }) => event === "payment.succeeded").body);
const callback = PaymentCallbackFromJSON(body).data;
said.callback = [callback.status, callback.amount, callback.paymentMethod.type];

console.log(JSON.stringify(said));
