// The official client of Midtrans does all that a till needs. One question on standard input, as JSON; one answer, as JSON.
import midtrans from "midtrans-client";
import { readFileSync } from "node:fs";

const { base, serverKey, clientKey } = JSON.parse(readFileSync(0, "utf8"));

const client = (keys) => {
  const api = new midtrans.CoreApi({ isProduction: false, ...keys });
  // The package knows two hosts; where it asks is a method of its configuration.
  api.apiConfig.getCoreApiBaseUrl = () => base;
  return api;
};
const api = client({ serverKey, clientKey });
const said = {};
const brief = ({ status_code, transaction_status }) => [status_code, transaction_status];
const refusal = (promise) => promise.then(() => "no refusal", (error) => error.httpStatusCode);
const sim = async (path, body) => {
  const answer = await fetch(`${base}/_sim/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
};

const qris = (order_id, gross_amount = 48500) => ({
  payment_type: "qris",
  transaction_details: { order_id, gross_amount },
  item_details: [{ id: "a", name: "Kopi", price: gross_amount, quantity: 1 }],
});
const card = async (order_id, more = {}) => {
  const { token_id } = await api.cardToken({
    client_key: clientKey,
    card_number: "4811111111111114",
    card_cvv: "123",
    card_exp_month: "12",
    card_exp_year: "2030",
  });
  return api.charge({
    payment_type: "credit_card",
    transaction_details: { order_id, gross_amount: 125000 },
    credit_card: { token_id, ...more },
  });
};

said.charged = brief(await api.charge(qris("C-1")));
said.status = brief(await api.transaction.status("C-1"));
said.duplicate = await refusal(api.charge(qris("C-1")));
said.nobody = await refusal(api.transaction.status("nobody"));
said.noMoney = await refusal(api.charge(qris("C-0", 0)));
said.wrongKey = await refusal(client({ serverKey: "SB-Mid-server-wrong", clientKey }).charge(qris("C-2")));

await sim("pay", { id: "C-1", issuer: "DANA" });
said.settled = brief(await api.transaction.status("C-1"));
said.illegal = await refusal(api.transaction.cancel("C-1"));
said.tooMuch = await refusal(api.transaction.refund("C-1", { refund_key: "R-0", amount: 48501 }));
said.refunded = brief(await api.transaction.refund("C-1", { refund_key: "R-1", amount: 8500, reason: "rusak" }));
said.refundedDirect = brief(await api.transaction.refundDirect("C-1", { refund_key: "R-2" }));
const b2b = await api.transaction.statusb2b("C-1");
said.b2b = [b2b.status_code, b2b.transactions.length];

await api.charge(qris("C-3"));
said.cancelled = brief(await api.transaction.cancel("C-3"));
said.cancelledStatus = brief(await api.transaction.status("C-3"));
await api.charge(qris("C-4"));
said.expired = brief(await api.transaction.expire("C-4"));
said.expiredStatus = brief(await api.transaction.status("C-4"));

const authorized = await card("C-5", { type: "authorize" });
said.authorized = brief(authorized);
said.captured = brief(await api.capture({ transaction_id: authorized.transaction_id, gross_amount: 120000 }));
await sim("faults", { fault: "challenge", times: 2 });
await card("C-6");
said.approved = brief(await api.transaction.approve("C-6"));
await card("C-7");
said.denied = brief(await api.transaction.deny("C-7"));

console.log(JSON.stringify(said));
