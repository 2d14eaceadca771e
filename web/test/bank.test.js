// The customer's bank of the simulators, over a page without a browser.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { load } from "./page.js";

const LOOK_MS = 1_000;

const bill = (id) => ({ provider: "xendit", id, reference: `ref-${id}`, method: "QRIS", merchant: "Toko Roti", amount: 7_500, expires: "2026-11-23T03:15:00Z" });

let page;
let open;
let late;
let isAway;
/** What answers to what is pressed wait for. */
let thinking;

beforeEach(async () => {
  [open, late, isAway, thinking] = [[bill("a")], [], false, null];
  page = await load("../../simulators/src/bank", { answers });
});

async function answers({ path, body }) {
  if (isAway) return null;
  if (path === "/_sim/open") return { body: { open, late } };
  await thinking;
  const [ids, from] = body.late ? [late, "late"] : [open.map(({ id }) => id), "open"];
  if (!ids.includes(body.id)) return { status: 409, body: { error: "it waits for no money" } };
  if (from === "open") open = open.filter(({ id }) => id !== body.id);
  else late = late.filter((id) => id !== body.id);
  return { body: { id: body.id, reference: `ref-${body.id}`, status: "SUCCEEDED" } };
}

const told = () => page.at("told").textContent;
const rows = () => page.at("open").children.map((it) => it.querySelector(".pay").textContent);
const paid = () => page.asked.filter(({ path }) => path === "/_sim/pay").length;

test("a bill that is pressed twice is paid once", async () => {
  assert.deepEqual(rows(), ["Bayar"]);
  const button = page.at("open").querySelector(".pay");
  button.click();
  button.click();
  await page.clock.go(0);
  assert.deepEqual([told(), rows(), paid()], ["Dibayar (ref-a: SUCCEEDED)", [], 1]);
  assert.equal(page.body.getAttribute("aria-busy"), "false");
});

test("what somebody else has paid is not to be paid late", async () => {
  open = [];
  await page.clock.go(LOOK_MS);
  assert.deepEqual([rows(), page.at("none").hidden], [[], false]);
});

test("what is over can be paid late, and stays until it is", async () => {
  [open, late] = [[], ["a"]];
  await page.clock.go(LOOK_MS);
  assert.deepEqual(rows(), ["Bayar terlambat"]);
  isAway = true;
  page.at("open").querySelector(".pay").click();
  await page.clock.go(0);
  assert.deepEqual([rows(), page.at("away").hidden], [["Bayar terlambat"], false]);
  assert.match(told(), /^Tidak dijawab/);
  isAway = false;
  page.at("open").querySelector(".pay").click();
  await page.clock.go(0);
  assert.deepEqual([told(), rows()], ["Dibayar terlambat (ref-a: SUCCEEDED)", []]);
});

test("that nobody answers is said, until somebody does", async () => {
  assert.equal(page.at("away").hidden, true);
  isAway = true;
  await page.clock.go(LOOK_MS);
  assert.equal(page.at("away").hidden, false);
  isAway = false;
  open = [bill("a"), bill("b")];
  await page.clock.go(LOOK_MS);
  assert.deepEqual([page.at("away").hidden, rows()], [true, ["Bayar", "Bayar"]]);
});

test("an amount that was entered is for one payment, and for what has none", async () => {
  open = [bill("a"), { ...bill("b"), amount: null }];
  await page.clock.go(LOOK_MS);
  const [b, a] = page.at("open").querySelectorAll(".pay");
  const amounts = () => page.asked.filter(({ path }) => path === "/_sim/pay").map(({ body }) => body.amount);
  page.at("amount").value = "900";
  isAway = true;
  b.click();
  await page.clock.go(0);
  assert.deepEqual([amounts(), page.at("amount").value], [[900], "900"], "it may be tried again");
  isAway = false;
  b.click();
  await page.clock.go(0);
  page.at("amount").value = "800";
  a.click();
  await page.clock.go(0);
  assert.deepEqual([amounts(), page.at("amount").value], [[900, 900, undefined], ""]);
});

test("while one is being paid, no button can be pressed, and each says so", async () => {
  const buttons = () => page.body.querySelectorAll("button").filter((it) => !it.closest("template"));
  const areOff = () => [...new Set(buttons().map((it) => it.getAttribute("aria-disabled") === "true"))];
  assert.deepEqual(areOff(), [false]);
  let done;
  thinking = new Promise((is) => (done = is));
  page.at("open").querySelector(".pay").click();
  open = [bill("a"), bill("b")];
  await page.clock.go(LOOK_MS);
  assert.deepEqual([rows(), areOff()], [["Bayar", "Bayar"], [true]], "nor one that has come meanwhile");
  done();
  await page.clock.go(0);
  assert.deepEqual([rows(), areOff()], [["Bayar"], [false]]);
});

test("the keyboard goes on at what came of it when its bill is gone, and else stays", async () => {
  open = [bill("a"), bill("b")];
  await page.clock.go(LOOK_MS);
  const [b, a] = page.at("open").querySelectorAll(".pay");
  b.focus();
  open = [bill("b")];
  await page.clock.go(LOOK_MS);
  assert.deepEqual([a.isConnected, page.focused === b], [false, true]);
  b.click();
  await page.clock.go(0);
  assert.deepEqual([told(), page.focused === page.at("told")], ["Dibayar (ref-b: SUCCEEDED)", true]);
  assert.equal(page.at("told").getAttribute("tabindex"), "-1", "or it cannot have it");
});
