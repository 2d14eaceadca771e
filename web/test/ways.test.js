import assert from "node:assert/strict";
import { test } from "node:test";
import { CASH, carries, offered } from "../cashier/ways.js";

const way = (provider, method, mode, more) => {
  const bounds = { amount_min_minor: 1_000, amount_max_minor: 10_000_000 };
  return { provider, method, mode, ...bounds, ...more };
};

test("offers each provider's QRIS, one bank's number, and cash, where no money moves", () => {
  const ways = offered([
    way("midtrans", "bank_transfer", "test", { bank: "bca" }),
    way("midtrans", "bank_transfer", "test", { bank: "bni" }),
    way("midtrans", "qris", "test"),
    way("midtrans", "card", "test"),
    way("xendit", "qris", "live"),
    way("xendit", "bank_transfer", "test", { bank: "bni" }),
    way("xendit", "qris", "test"),
  ]);
  assert.deepEqual(ways.map(({ label }) => label), ["QRIS Midtrans", "QRIS Xendit", "VA BNI", "Tunai"]);
  assert.deepEqual(ways[1].body, { method: "qris", provider: "xendit", mode: "test" });
  // The hub calls a bank transfer `bank_transfer` where it lists it, and `transfer` where it is asked for.
  assert.deepEqual(ways[2].body, { method: "transfer", provider: "midtrans", mode: "test", bank: "bni" });
});

test("without accounts, or with live ones alone, there is cash", () => {
  assert.deepEqual(offered([]), [CASH]);
  assert.deepEqual(offered([way("xendit", "qris", "live")]), [CASH]);
});

test("a way carries what is within its bounds", () => {
  const [qris] = offered([way("xendit", "qris", "test")]);
  assert.deepEqual([999, 1_000, 10_000_000, 10_000_001].map((amount) => carries(qris, amount)), [false, true, true, false]);
  assert.equal(carries(CASH, 0), false);
});
