// The cashier's page as a whole, over a page without a browser and a hub that loses what a test wants lost.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { load } from "./page.js";

const encoded = (claims) => Buffer.from(JSON.stringify(claims)).toString("base64url");
const TOKEN = `e30.${encoded({ outlets: ["o"], register: "r" })}.c2ln`;
const QR = { type: "qr", text: "000201" };
const LIFE_MS = 900_000;
/** Four tries, and a second between two. */
const TRIES_MS = 3_000;
/** The same, if none of them is answered. */
const HANGS_MS = 4 * 20_000 + TRIES_MS;
const POLL_MS = 5_000;
const PING_MS = 25_000;

const at = (position) => `${position}-9f3ac2d1`;
const way = (provider, method, more) => ({ provider, method, mode: "test", amount_min_minor: 1_000, amount_max_minor: 10_000_000, ...more });
const product = (variant, name, price) => ({ name, currency: "IDR", active: true, variants: [{ variant, price_minor: price }] });

/** A hub with a shop, whose answers come from what was asked of it. */
class Hub {
  sales = new Map();
  payments = new Map();
  breadMinor = 7_500;
  left = 10;
  /** Of which line there is not enough any more. */
  runsOut = -1;
  /** What answers about stock wait for. */
  stocktaking = null;
  /** And those about a sale. */
  bookkeeping = null;
  /** How payments stand when they are asked for. */
  begins = { state: "pending", shown: QR };
  /** Which requests never arrive, and which answers never come back. */
  loses = () => false;
  silences = () => false;
  /** And which hang, on their way there or back. */
  hangs = () => false;
  withholds = () => false;
  /** Why no payment can be called off. */
  refuses = null;
  /** Whether providers answer: without one no payment comes to its end. */
  providersAnswer = true;

  answers = async (asked) => {
    if (this.loses(asked)) return null;
    if (this.hangs(asked)) await new Promise(() => {});
    const answer = this.#does(asked);
    if (this.withholds(asked)) await new Promise(() => {});
    if (asked.path.includes("/stock/")) await this.stocktaking;
    if (asked.method === "GET" && asked.path.startsWith("/v1/sales/")) await this.bookkeeping;
    return this.silences(asked) ? { status: 503, body: {} } : answer;
  };

  #does({ method, path, body, key }) {
    const refused = (status, code, ...pointers) => {
      return { status, body: { code, detail: code, errors: pointers.map((pointer) => ({ pointer, code, detail: code })) } };
    };
    const [, , what, id, verb] = path.split("/");
    const sale = this.sales.get(id);
    const payment = this.payments.get(id);
    switch (`${method} ${what} ${verb ?? ""}`) {
      case "GET snapshot?channel=payments q":
      case "GET snapshot?channel=payments r":
        return { body: { position: at(10) } };
      case "GET outlets ":
        return { body: { name: "Toko Roti", registers: [{ id: "r", name: "Kasir 1" }] } };
      case "GET outlets payment-methods":
        return { body: [way("midtrans", "qris"), way("xendit", "qris"), way("xendit", "bank_transfer", { bank: "bni" })] };
      case "GET outlets stock":
        return { body: { on_hand: `${this.left}.000`, reserved: "0.000" } };
      case "POST outlets sales":
        assert.equal(key, body.id, "the id is the key");
        if (body.lines.some(({ variant, unit_price_minor }) => variant === "b" && unit_price_minor !== this.breadMinor)) {
          return refused(409, "price_changed", "/lines/0/unit_price_minor");
        }
        if (this.runsOut >= 0) return refused(409, "out_of_stock", `/lines/${this.runsOut}/quantity`);
        if (!this.sales.has(key)) this.#opens(body);
        return { status: 201, body: this.sales.get(key) };
      case "GET outlets sales?state=open&limit=200":
        return { body: { items: [...this.sales.values()].filter(({ state }) => state === "open") } };
      case "GET sales ":
        return sale ? { body: sale } : refused(404, "not_found");
      case "POST sales void":
        if (!sale) return refused(404, "not_found");
        if (this.#isUnderWay(id)) return refused(409, "payment_under_way");
        if (sale.state !== "open") return refused(409, "sale_not_open");
        sale.state = "voided";
        return { body: sale };
      case "POST sales payments":
        return sale.state === "open" ? { status: 201, body: this.#takes(sale, body) } : refused(409, "sale_not_open");
      case "GET payments ":
        return payment ? { body: payment } : refused(404, "not_found");
      case "GET payments qr.svg":
        return { body: "<svg/>" };
      case "POST payments cancel":
        if (!payment) return refused(404, "not_found");
        if (this.refuses) return refused(409, this.refuses);
        if (!this.providersAnswer) payment.closing = "canceled";
        else if (payment.state !== "paid") payment.state = "canceled"; // The provider has the last word.
        return { body: payment };
      default:
        assert.match(path, /^\/v1\/products/, `${method} ${path}`);
        return { body: { items: [product("b", "Roti", this.breadMinor), product("m", "Susu", 18_250)] } };
    }
  }

  #isUnderWay(id) {
    return [...this.payments.values()].some(({ sale, state }) => sale === id && ["unknown", "pending"].includes(state));
  }

  #opens({ id, register, lines }) {
    const total_minor = lines.reduce((sum, { quantity, unit_price_minor }) => sum + quantity * unit_price_minor, 0);
    this.left -= 1;
    this.sales.set(id, { id, register, total_minor, currency: "IDR", number: `A-${this.sales.size + 1}`, state: "open", tenders: [] });
  }

  #takes(sale, { id, method, provider }) {
    if (method === "cash") {
      this.#pays(sale, id);
      return { payment: { payment: id }, sale };
    }
    const expires_at = new Date(Date.now() + LIFE_MS).toISOString();
    this.payments.set(id, { id, sale: sale.id, provider, ...this.begins, expires_at });
    return this.payments.get(id);
  }

  /** It is paid, and others are to pay the rest. */
  capturesPart(payment) {
    payment.state = "paid";
    this.sales.get(payment.sale).tenders.push({ payment: payment.id });
  }

  #pays(sale, payment) {
    sale.tenders.push({ payment });
    sale.state = "completed";
  }

  /** A provider says that a payment is paid. */
  captures(payment) {
    payment.state = "paid";
    this.#pays(this.sales.get(payment.sale), payment.id);
  }

  /** Somebody takes it for paid. */
  forces(payment) {
    payment.forced = { by: "s", at: "2026-11-23T03:01:00Z", reason: "Layar nasabah menunjukkan berhasil" };
    this.#pays(this.sales.get(payment.sale), payment.id);
  }
}

let hub;
let page;
let position;

beforeEach(async () => {
  [hub, position] = [new Hub(), 10];
  await opens({ hash: `#token=${TOKEN}` });
});

async function opens(how) {
  page = await load("../cashier", { answers: hub.answers, ...how });
  connects();
}

/** The same tab, loaded anew. */
const reloads = () => opens({ kept: page.kept, clock: page.clock });

function connects() {
  page.sockets.says("ready", { denied: [] });
  page.sockets.says("caught_up", {}, at(position));
}

async function hears(type, data) {
  position += 1;
  page.sockets.tells(type, { currency: "IDR", amount_minor: 7_500, ...data }, at(position));
  await page.clock.go(0);
}

/** Time goes by, and the hub is heard all the while. */
async function waits(ms) {
  for (let left = ms; left > 0; left -= PING_MS) {
    page.sockets.says("ping");
    await page.clock.go(Math.min(left, PING_MS));
  }
}

const text = (id) => page.at(id).textContent;
const isShown = (id) => page.at(id).closest("[hidden]") === null;
const buttons = (id) => page.at(id).querySelectorAll("button");
const shelf = (name) => buttons("shelf").find((it) => it.querySelector(".name").textContent === name);

/** The shop's door, by another token. */
async function enters(token) {
  page.at("token").value = token;
  page.at("door-form").submit();
  await page.clock.go(0);
}

/** What the cashier can do with the sale. */
function offered() {
  const ways = isShown("ways") ? buttons("ways").map((it) => it.textContent) : [];
  return [...ways, ...["call-off", "clear", "next"].filter(isShown)];
}
const WAYS = ["QRIS Midtrans", "QRIS Xendit", "VA BNI", "Tunai"];

async function presses(button) {
  button.click();
  await page.clock.go(0);
}

const pays = (label) => presses(buttons("ways").find((it) => it.textContent === label));

/** Rings up a bread, to be paid by QRIS. */
async function rings() {
  await presses(shelf("Roti"));
  await pays("QRIS Midtrans");
  return [...hub.payments.values()].at(-1);
}

test("shows the code, and says LUNAS once when it is paid", async () => {
  assert.deepEqual([text("place"), text("state"), page.body.dataset.step], ["Toko Roti · Kasir 1", "Terhubung", "ringing"]);
  const payment = await rings();
  assert.deepEqual([text("title"), text("countdown"), isShown("qr"), text("counter-title")], ["Menunggu pembayaran", "15:00", true, "Struk A-1"]);
  assert.deepEqual(offered(), ["call-off"]);
  assert.ok(page.scrolled.includes("payment"), "the code comes into view");
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale });
  assert.deepEqual([text("title"), isShown("qr"), offered(), page.notes], ["LUNAS", false, ["next"], 2]);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale });
  page.sockets.says("disconnect", "transport close");
  await page.clock.go(2 * POLL_MS);
  assert.equal(page.notes, 2, "it has sounded");
  await presses(page.at("next"));
  assert.deepEqual([page.body.dataset.step, isShown("payment"), offered()], ["ringing", false, WAYS]);
  assert.deepEqual(page.asked.filter(({ path }) => path.endsWith("/void")), [], "it is paid");
});

test("a payment that never came to the hub is found out, and another way is offered", async () => {
  hub.loses = ({ method, path }) => method === "POST" && path.endsWith("/payments");
  await rings();
  await page.clock.go(TRIES_MS);
  assert.equal(page.asked.filter(hub.loses).length, 4);
  assert.deepEqual([text("title"), offered(), isShown("note")], ["Gagal", [...WAYS, "next"], false]);
  hub.loses = () => false;
  await pays("QRIS Xendit");
  assert.deepEqual([text("title"), text("way"), offered()], ["Menunggu pembayaran", "QRIS Xendit", ["call-off"]]);
  assert.equal(hub.sales.size, 1);
});

test("without a network the till asks until it knows, though the socket has not noticed", async () => {
  hub.loses = ({ path }) => !path.endsWith("/sales");
  await rings();
  await page.clock.go(2 * TRIES_MS);
  assert.deepEqual([text("title"), text("state"), offered()], ["Memeriksa pembayaran…", "Terhubung", ["call-off"]]);
  assert.match(text("note"), /Hub tidak menjawab/);
  hub.loses = () => false;
  await page.clock.go(POLL_MS + TRIES_MS);
  assert.deepEqual([text("title"), offered(), isShown("note")], ["Gagal", [...WAYS, "next"], false]);
});

test("what never came to the hub can be called off", async () => {
  hub.loses = ({ path }) => !path.endsWith("/sales");
  await rings();
  await page.clock.go(2 * TRIES_MS);
  hub.loses = () => false;
  await presses(page.at("call-off"));
  assert.deepEqual([text("title"), offered(), isShown("note")], ["Gagal", [...WAYS, "next"], false]);
});

test("a payment that came to the hub, and whose answer did not come back, is shown", async () => {
  hub.silences = ({ method, path }) => method === "POST" && path.endsWith("/payments");
  await rings();
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), isShown("qr"), offered(), isShown("note")], ["Menunggu pembayaran", true, ["call-off"], false]);
  const keys = page.asked.filter(hub.silences).map(({ key }) => key);
  assert.deepEqual([keys.length, new Set(keys).size], [4, 1], "one request, sent again");
});

test("a payment whose request hangs is asked for, and LUNAS holds up no next customer", async () => {
  const isPayment = ({ method, path }) => method === "POST" && path.endsWith("/payments");
  for (const isHeard of [false, true]) {
    hub.withholds = isPayment;
    const payment = await rings();
    assert.deepEqual([text("title"), page.at("call-off").getAttribute("aria-disabled")], ["Sedang dikirim…", "true"]);
    if (!isHeard) page.sockets.says("disconnect", "transport close");
    await page.clock.go(POLL_MS);
    assert.deepEqual([text("title"), isShown("qr"), page.at("call-off").getAttribute("aria-disabled")], ["Menunggu pembayaran", true, "false"]);
    hub.captures(payment);
    if (isHeard) await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
    else await page.clock.go(POLL_MS);
    assert.deepEqual([text("title"), page.at("next").getAttribute("aria-disabled")], ["LUNAS", "false"]);
    await presses(page.at("next"));
    assert.equal(page.body.dataset.step, "ringing");
    connects();
    // What the first one's request comes to is not the next one's.
    const opened = hub.sales.size;
    hub.withholds = (asked) => isPayment(asked) || asked.path.endsWith("/sales");
    await rings();
    await page.clock.go(HANGS_MS - 4_000);
    assert.deepEqual([text("title"), hub.sales.size, isShown("note")], ["Sedang dikirim…", opened + 1, false]);
    const asked = page.asked.length;
    await pays("Tunai");
    assert.equal(page.asked.length, asked, "that would be twice");
    hub.withholds = () => false;
    await page.clock.go(4_000);
    assert.match(text("note"), /tidak dapat dibuka/);
    await pays("QRIS Midtrans");
    assert.deepEqual([text("title"), hub.sales.size], ["Menunggu pembayaran", opened + 1]);
    await presses(page.at("call-off"));
    await presses(page.at("next"));
  }
  assert.equal(page.notes, 4);
});

test("cash whose answer hangs is LUNAS when its sale says so, and not before", async () => {
  hub.hangs = ({ method, path }) => method === "POST" && path.endsWith("/payments");
  await presses(shelf("Roti"));
  await pays("Tunai");
  await page.clock.go(2 * POLL_MS);
  assert.deepEqual([text("title"), page.notes], ["Sedang dikirim…", 0], "what is not there may be on its way");
  [hub.withholds, hub.hangs] = [hub.hangs, () => false];
  await page.clock.go(4 * POLL_MS);
  assert.deepEqual([text("title"), page.notes, offered()], ["LUNAS", 2, ["next"]]);
});

test("a payment that is called off in vain is asked for meanwhile", async () => {
  const payment = await rings();
  hub.withholds = ({ path }) => path.endsWith("/cancel");
  await presses(page.at("call-off"));
  assert.equal(payment.state, "canceled");
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "canceled" });
  assert.deepEqual([text("title"), page.at("next").getAttribute("aria-disabled")], ["Dibatalkan", "false"]);
  await pays("Tunai");
  assert.equal(text("title"), "LUNAS");
  await page.clock.go(HANGS_MS);
  assert.deepEqual([text("title"), isShown("note")], ["LUNAS", false]);
});

test("nothing of an earlier payment is seen while the next one is sent", async () => {
  const payment = await rings();
  Object.assign(payment, { state: "failed", failure: "no_money", shown: null });
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "failed", failure: "no_money" });
  assert.equal(isShown("why"), true);
  await presses(page.at("next"));
  hub.hangs = ({ path }) => path.endsWith("/sales");
  await rings();
  assert.deepEqual([text("title"), text("text"), text("way"), isShown("why"), isShown("qr")], ["Sedang dikirim…", "", "", false, false]);
});

test("cash whose answer was lost is found in its sale", async () => {
  hub.silences = ({ method, path }) => method === "POST" && path.endsWith("/payments");
  await presses(shelf("Roti"));
  await pays("Tunai");
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), offered(), page.notes], ["LUNAS", ["next"], 2]);
});

test("what was forced is LUNAS, also after a reload, and when its provider says that it has ended", async () => {
  const payment = await rings();
  hub.forces(payment);
  await hears("payment.changed", { ...payment, payment: payment.id });
  assert.deepEqual([text("title"), isShown("qr"), offered()], ["LUNAS", false, ["next"]]);
  await reloads();
  assert.deepEqual([text("title"), isShown("qr"), offered()], ["LUNAS", false, ["next"]]);
  Object.assign(payment, { state: "expired", shown: null, failure: "never_arrived" });
  await hears("payment.changed", { ...payment, payment: payment.id });
  assert.deepEqual([text("title"), isShown("why"), offered()], ["LUNAS", false, ["next"]]);
  await reloads();
  assert.deepEqual([text("title"), isShown("why"), offered()], ["LUNAS", false, ["next"]]);
  payment.state = "reversed";
  await hears("payment.changed", { ...payment, payment: payment.id });
  assert.equal(text("title"), "Ditarik kembali");
});

test("late money that is let in for its own sale is LUNAS, whether it is heard or asked for", async () => {
  for (const missed of [false, true]) {
    const payment = await rings();
    await presses(page.at("call-off"));
    payment.state = "paid_late";
    await hears("payment.changed", { ...payment, payment: payment.id });
    assert.deepEqual([text("title"), offered(), page.notes], ["Dibayar terlambat", ["next"], missed ? 2 : 0]);
    hub.captures(payment);
    if (missed) {
      page.sockets.says("disconnect", "transport close");
      await page.clock.go(POLL_MS);
    } else {
      await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
      await hears("payment.changed", { ...payment, payment: payment.id });
    }
    assert.deepEqual([text("title"), offered(), page.notes], ["LUNAS", ["next"], missed ? 4 : 2]);
    await presses(page.at("next"));
  }
});

test("a part stays a part until another payment has brought the rest", async () => {
  const payment = await rings();
  hub.capturesPart(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 500 });
  assert.deepEqual([text("title"), offered()], ["Dibayar sebagian", ["next"]]);
  payment.state = "settled";
  await hears("payment.changed", { ...payment, payment: payment.id });
  assert.equal(text("title"), "Dibayar sebagian");
  await reloads();
  assert.deepEqual([text("title"), offered(), page.notes], ["Dibayar sebagian", ["next"], 0]);
  hub.sales.get(payment.sale).state = "completed";
  // It is asked for until the hub answers.
  hub.loses = () => true;
  await hears("payment.captured", { payment: "another", sale: payment.sale, due_minor: 0 });
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), isShown("note")], ["Dibayar sebagian", true]);
  hub.loses = () => false;
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), offered(), isShown("note")], ["Penjualan ini sudah lunas", ["next"], false]);
});

test("the rest of a part may be paid where this register does not hear it", async () => {
  const payment = await rings();
  hub.capturesPart(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 500 });
  hub.sales.get(payment.sale).state = "completed";
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
  const asked = page.asked.length;
  await page.clock.go(2 * POLL_MS);
  assert.equal(page.asked.length, asked, "that is the end of it");
});

test("that another payment may have been faster is asked until the hub says it", async () => {
  const payment = await rings();
  hub.sales.get(payment.sale).state = "completed";
  hub.loses = () => true;
  await hears("payment.captured", { payment: "another", sale: payment.sale, due_minor: 0 });
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), isShown("note")], ["Menunggu pembayaran", true]);
  hub.loses = () => false;
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), isShown("qr")], ["Penjualan ini sudah lunas", false]);
});

test("an answer that says paid is LUNAS only when its sale says so too", async () => {
  for (const [captures, title] of [["capturesPart", "Dibayar sebagian"], ["captures", "LUNAS"]]) {
    hub[captures](await rings()); // Which nobody has told the page.
    let counted;
    hub.bookkeeping = new Promise((done) => (counted = done));
    await presses(page.at("call-off"));
    assert.deepEqual([text("title"), page.notes], ["Menunggu pembayaran", 0], "its sale has not said anything yet");
    counted();
    await page.clock.go(0);
    assert.equal(text("title"), title);
    await presses(page.at("next"));
  }
  // Or the answer to the request for it.
  hub.begins = { state: "paid", shown: null };
  await rings();
  assert.deepEqual([text("title"), page.notes], ["Dibayar sebagian", 2]);
});

test("what goes back while nobody listens is not LUNAS for ever", async () => {
  const payment = await rings();
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  payment.state = "reversed";
  page.sockets.says("disconnect", "transport close");
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), page.notes], ["Ditarik kembali", 2]);
});

test("what becomes of an earlier customer's payment is told until somebody has read it", async () => {
  await hears("payment.changed", { payment: "old", sale: "old", state: "expired" });
  assert.equal(isShown("earlier"), false, "that is no news");
  await hears("payment.changed", { payment: "old", sale: "old", state: "reversed" });
  await hears("payment.changed", { payment: "older", sale: "older", state: "charged_back", amount_minor: 20_000 });
  const payment = await rings();
  await hears("payment.changed", { payment: "late", sale: "late", state: "paid_late" });
  await reloads();
  const warnings = () => page.at("warnings").children.map((it) => it.textContent.replaceAll("\u00a0", " "));
  assert.deepEqual(warnings(), [
    "Pembayaran Rp 7.500 sebelumnya masuk terlambat, setelah berakhir. Panggil atasan.",
    "Pembayaran Rp 20.000 sebelumnya ditarik kembali oleh bank pelanggan. Panggil atasan.",
    "Pembayaran Rp 7.500 sebelumnya ditarik kembali oleh bank. Panggil atasan.",
  ]);
  assert.deepEqual([isShown("earlier"), text("title")], [true, "Menunggu pembayaran"], "this one goes on");
  await presses(page.at("read"));
  await reloads();
  assert.deepEqual([isShown("earlier"), warnings()], [false, []]);
  // Of the one on the screen the screen itself says it.
  await hears("payment.changed", { ...payment, payment: payment.id, state: "reversed" });
  assert.deepEqual([text("title"), isShown("earlier")], ["Ditarik kembali", false]);
});

test("no warning of money goes before those of sales that end by themselves, and none unsaid", async () => {
  hub.providersAnswer = false;
  await rings();
  await presses(page.at("call-off"));
  await presses(page.at("next"));
  const warn = (id) => hears("payment.changed", { payment: id, sale: id, state: "reversed" });
  for (let at = 1; at <= 99; at += 1) await warn(`old${at}`);
  const said = () => [page.at("warnings").children.length, text("warnings").includes("belum batal"), isShown("untold")];
  assert.deepEqual(said(), [100, true, false]);
  await warn("old100");
  assert.deepEqual([...said(), text("untold")], [100, false, true, "dan 1 lainnya"]);
  await hears("payment.changed", { payment: "newest", sale: "newest", state: "paid_late" });
  await reloads();
  assert.deepEqual([...said(), text("untold")], [100, false, true, "dan 2 lainnya"]);
  assert.match(page.at("warnings").children[0].textContent, /masuk terlambat/, "the newest is on top");
  await presses(page.at("read"));
  await reloads();
  assert.deepEqual([isShown("earlier"), isShown("untold")], [false, false]);
});

test("sales that were let go are asked for one after another, however long that takes", async () => {
  hub.providersAnswer = false;
  for (let at = 0; at < 3; at += 1) {
    await rings();
    await presses(page.at("call-off"));
    await presses(page.at("next"));
  }
  const isSale = ({ method, path }) => method === "GET" && path.startsWith("/v1/sales/");
  const { answers } = hub;
  let [now, most] = [0, 0];
  page.answers = async (asked) => {
    if (!isSale(asked)) return answers(asked);
    most = Math.max(most, (now += 1));
    await new Promise((done) => page.clock.after(done, 18_000));
    now -= 1;
    return { status: 503, body: {} };
  };
  for (const { id, sale } of hub.payments.values()) await hears("payment.changed", { payment: id, sale, state: "unknown" });
  await page.clock.go(200_000); // By now they have all the time that there is.
  most = 0;
  await page.clock.go(300_000);
  assert.equal(most, 1);
});

test("a sale is opened once, however often the answer is lost", async () => {
  hub.silences = ({ path }) => path.endsWith("/sales");
  await rings();
  await page.clock.go(TRIES_MS);
  assert.deepEqual([page.body.dataset.step, hub.sales.size], ["ringing", 1]);
  assert.match(text("note"), /tidak dapat dibuka/);
  await pays("Tunai");
  await page.clock.go(TRIES_MS);
  assert.equal(hub.sales.size, 1);
  await reloads();
  assert.deepEqual([text("lines").replaceAll("\u00a0", " "), hub.sales.size], ["1 ×RotiRp 7.500−", 1], "the basket is kept");
  hub.silences = () => false;
  await pays("QRIS Midtrans");
  assert.deepEqual([hub.sales.size, text("counter-title"), text("title")], [1, "Struk A-1", "Menunggu pembayaran"]);
  await reloads();
  assert.deepEqual([text("counter-title"), text("title")], ["Struk A-1", "Menunggu pembayaran"]);
  assert.equal(text("lines").startsWith("1 ×Roti"), true, "and what was sold is seen");
});

test("another basket is another sale, and keeps back nothing for the one before", async () => {
  hub.silences = ({ path }) => path.endsWith("/sales");
  await rings();
  await page.clock.go(TRIES_MS);
  hub.silences = () => false;
  await presses(shelf("Susu"));
  assert.deepEqual([...hub.sales.values()].map(({ state }) => state), ["voided"]);
  await pays("QRIS Midtrans");
  assert.deepEqual([...hub.sales.values()].map(({ state, total_minor }) => [state, total_minor]), [["voided", 7_500], ["open", 25_750]]);
});

test("a refusal to open a sale is an answer: the next one is another, at the price of then", async () => {
  await presses(shelf("Roti"));
  hub.breadMinor = 8_000;
  await pays("QRIS Midtrans");
  assert.deepEqual([text("note-text"), text("note-why"), page.body.dataset.step], ["Harga Roti berubah; periksa total.", "", "ringing"]);
  assert.equal(text("sum").replaceAll("\u00a0", " "), "Rp 8.000", "the shelf was read again");
  await pays("Tunai");
  assert.deepEqual([text("title"), [...hub.sales.values()].map(({ total_minor }) => total_minor)], ["LUNAS", [8_000]]);
  const ids = page.asked.filter(({ path }) => path.endsWith("/sales")).map(({ body }) => body.id);
  assert.deepEqual([ids.length, new Set(ids).size], [2, 2]);
});

test("a refusal says of which product it is, and else what the hub says", async () => {
  await presses(shelf("Roti"));
  await presses(shelf("Susu"));
  const said = async () => [(await pays("Tunai"), text("note-text")), text("note-why")];
  hub.runsOut = 1;
  assert.deepEqual(await said(), ["Stok Susu tidak cukup.", ""]);
  hub.runsOut = 2;
  assert.deepEqual(await said(), ["Penjualan ini tidak dapat dibuka.", "out_of_stock"]);
  hub.runsOut = -1;
  page.answers = async (asked) => {
    if (asked.path.endsWith("/payments")) return { status: 409, body: { code: "nothing_due", detail: "nothing_due" } };
    return hub.answers(asked);
  };
  assert.match((await said())[0], /^Pembayaran lain untuk penjualan ini masih berjalan/);
  assert.deepEqual([text("title"), offered()], ["Gagal", [...WAYS, "next"]]);
  page.answers = hub.answers;
  await pays("Tunai");
  assert.deepEqual([text("title"), isShown("note")], ["LUNAS", false]);
});

test("a shelf that was read before a sale is read again after it", async () => {
  await presses(shelf("Roti"));
  await pays("Tunai");
  let taken;
  hub.stocktaking = new Promise((done) => (taken = done));
  await presses(page.at("next"));
  await presses(shelf("Roti"));
  await pays("Tunai");
  taken();
  await page.clock.go(0);
  const left = () => shelf("Roti").querySelector(".left").textContent;
  assert.deepEqual([text("title"), left()], ["LUNAS", "sisa 8"]);
  // Or while it is being rung up: the hub has opened it, and the page does not know yet.
  hub.stocktaking = new Promise((done) => (taken = done));
  await presses(page.at("next"));
  await presses(shelf("Roti"));
  hub.silences = ({ path }) => path.endsWith("/sales");
  await pays("Tunai");
  taken();
  await page.clock.go(0);
  assert.deepEqual([page.body.dataset.step, left()], ["ringing", "sisa 8"]);
  hub.silences = () => false;
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), left()], ["LUNAS", "sisa 7"]);
});

test("a sale that another payment has paid is not asked for again", async () => {
  // Nobody knows what became of the first.
  const { begins } = hub;
  hub.begins = { state: "unknown", shown: null };
  const first = await rings();
  hub.begins = begins;
  await pays("QRIS Xendit");
  const second = [...hub.payments.values()].at(-1);
  assert.deepEqual([text("way"), isShown("qr")], ["QRIS Xendit", true]);
  hub.captures(first);
  await hears("payment.captured", { payment: first.id, sale: first.sale });
  assert.deepEqual([text("title"), isShown("qr"), offered(), isShown("note")], ["Penjualan ini sudah lunas", false, ["next"], false]);
  assert.equal(page.notes, 0, "this payment is not paid");
  second.state = "canceled";
  await hears("payment.changed", { payment: second.id, sale: second.sale, state: "canceled" });
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
  await reloads();
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
  await presses(page.at("next"));
  assert.deepEqual([page.body.dataset.step, hub.sales.get(first.sale).state], ["ringing", "completed"]);
});

test("after a reload a payment that came to nothing is seen beside its sale", async () => {
  const payment = await rings();
  payment.state = "canceled";
  hub.sales.get(payment.sale).state = "completed";
  await reloads();
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
});

test("after a reload the code, and LUNAS, wait for no shelf", async () => {
  const payment = await rings();
  const isShelf = ({ path }) => path.startsWith("/v1/products");
  for (const [never, state] of [["hangs", "Membaca toko"], ["loses", "Hub tidak menjawab; mencoba lagi"]]) {
    hub[never] = isShelf;
    await opens({ kept: page.kept });
    await page.clock.go(never === "loses" ? TRIES_MS : 0);
    assert.deepEqual([isShown("qr"), text("title"), text("state"), isShown("no-products")], [true, "Menunggu pembayaran", state, false]);
    hub[never] = () => false;
  }
  // What is refused is not asked for again: the payment is.
  page.answers = async (asked) => (isShelf(asked) ? { status: 403, body: { code: "denied", detail: "denied" } } : hub.answers(asked));
  page = await load("../cashier", { answers: page.answers, kept: page.kept });
  assert.deepEqual([isShown("door"), isShown("qr")], [true, true]);
  hub.captures(payment);
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), page.notes], ["LUNAS", 2]);
});

test("what happens between a reload and the position is not missed", async () => {
  const payment = await rings();
  let read;
  const reading = new Promise((done) => (read = done));
  // The first look is answered late, as it was; nobody tells the page what has come since.
  let looks = 0;
  page.answers = async (asked) => {
    const said = structuredClone(await hub.answers(asked));
    if (asked.path === `/v1/payments/${payment.id}` && (looks += 1) === 1) await new Promise(() => {});
    if (asked.path.startsWith("/v1/snapshot")) await reading;
    return said;
  };
  page = await load("../cashier", { answers: page.answers, kept: page.kept, clock: page.clock });
  hub.captures(payment);
  read();
  await page.clock.go(0);
  connects();
  assert.equal(text("title"), "LUNAS");
});

test("a sale that has ended is asked no more of", async () => {
  const payment = await rings();
  hub.sales.get(payment.sale).state = "expired";
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "expired" });
  assert.deepEqual([text("title"), offered()], ["Penjualan berakhir", ["next"]]);
  // Or the hub, begun anew, has never heard of it.
  for (const finds of [reloads, () => presses(page.at("call-off"))]) {
    await presses(page.at("next"));
    await rings();
    hub.sales.clear();
    hub.payments.clear();
    await finds();
    assert.deepEqual([text("title"), offered()], ["Penjualan dibatalkan", ["next"]]);
  }
});

test("an open sale may be paid otherwise", async () => {
  await rings();
  await presses(page.at("call-off"));
  assert.deepEqual([text("title"), offered()], ["Dibatalkan", [...WAYS, "next"]]);
  await pays("Tunai");
  assert.deepEqual([text("title"), text("way"), offered()], ["LUNAS", "Tunai", ["next"]]);
});

test("while a payment is being called off there may be another, and nobody is shown its code", async () => {
  hub.providersAnswer = false;
  for (const label of ["Tunai", "QRIS Xendit"]) {
    const first = await rings();
    await presses(page.at("call-off"));
    assert.deepEqual([text("title"), isShown("qr"), isShown("left"), offered()], ["Membatalkan", false, false, [...WAYS, "next"]]);
    await pays(label);
    if (label !== "Tunai") {
      assert.deepEqual([text("title"), text("way"), isShown("qr"), offered()], ["Menunggu pembayaran", label, true, ["call-off"]]);
      hub.captures([...hub.payments.values()].at(-1));
      await hears("payment.captured", { payment: [...hub.payments.keys()].at(-1), sale: first.sale, due_minor: 0 });
    }
    assert.deepEqual([text("title"), text("way"), isShown("note"), offered()], ["LUNAS", label, false, ["next"]]);
    await presses(page.at("next"));
  }
});

test("when its time is over another way may be taken once it is called off", async () => {
  hub.providersAnswer = false;
  await rings();
  await waits(LIFE_MS);
  assert.deepEqual([text("title"), offered()], ["Waktu habis, menunggu kepastian", ["call-off"]]);
  await presses(page.at("call-off"));
  assert.deepEqual([text("title"), isShown("qr"), offered()], ["Waktu habis, menunggu kepastian", false, [...WAYS, "next"]]);
  assert.match(text("text"), /pilih cara lain/);
  await pays("Tunai");
  assert.equal(text("title"), "LUNAS");
});

test("a payment that comes without a code is asked for until it can be paid, or another way taken", async () => {
  hub.begins = { state: "unknown", shown: null };
  const payment = await rings();
  assert.deepEqual(offered(), [...WAYS, "call-off", "next"]);
  payment.state = "pending";
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "pending" });
  assert.deepEqual([text("title"), offered()], ["Menunggu pembayaran", ["call-off"]]);
  payment.closing = "canceled";
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), offered()], ["Membatalkan", [...WAYS, "next"]]);
  const asked = page.asked.length;
  await page.clock.go(POLL_MS);
  assert.equal(page.asked.length, asked, "its end is told");
});

test("a sale that is let go before its payment has ended is voided after it, also through a reload", async () => {
  hub.providersAnswer = false;
  for (const finds of [() => {}, reloads]) {
    const payment = await rings();
    await presses(page.at("call-off"));
    await presses(page.at("next"));
    assert.deepEqual([page.body.dataset.step, hub.sales.get(payment.sale).state], ["ringing", "open"]);
    assert.match(text("warnings"), /^Struk A-\d belum batal, karena penyedia belum menjawab\./);
    await finds();
    Object.assign(payment, { state: "canceled", closing: null });
    await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "canceled" });
    assert.deepEqual([hub.sales.get(payment.sale).state, isShown("earlier")], ["voided", false]);
    const asked = page.asked.length;
    await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "canceled" });
    assert.equal(page.asked.length, asked, "that is the end of it");
  }
});

test("that a sale was paid after it had been let go is told, whether it is heard or missed", async () => {
  hub.providersAnswer = false;
  for (const missed of [false, true]) {
    const payment = await rings();
    await presses(page.at("call-off"));
    await presses(page.at("next"));
    hub.captures(payment);
    if (missed) await reloads();
    else await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
    const { number } = hub.sales.get(payment.sale);
    assert.deepEqual([isShown("earlier"), text("warnings")], [true, `Struk ${number} ternyata dibayar setelah ditinggalkan. Panggil atasan.`]);
    assert.deepEqual([page.body.dataset.step, page.notes], ["ringing", 0], "it is not for the next customer");
    await presses(page.at("read"));
  }
});

test("a sale that was left in another tab is told of and watched, and is that tab's to void", async () => {
  page.clock.now -= 60_000; // It was rung up a while ago.
  const payment = await rings();
  const sale = hub.sales.get(payment.sale);
  await reloads();
  assert.equal(isShown("earlier"), false, "this tab has it");
  hub.sales.set("q", { ...sale, id: "0", register: "q", number: "B-1" });
  // What is paid in part is the manager's to end.
  hub.sales.set("part", { ...sale, id: "1", number: "A-9", paid_minor: 5_000 });
  // Another tab is opened; and then it is that one's that is left.
  await opens({ hash: `#token=${TOKEN}` });
  assert.deepEqual([page.body.dataset.step, text("warnings")], ["ringing", "Struk A-1 masih terbuka; mungkin ditinggalkan di tab lain."]);
  const own = await rings();
  payment.closing = "canceled";
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "pending" });
  await opens({ kept: page.kept });
  assert.deepEqual([page.at("warnings").children.length, sale.state, text("title")], [1, "open", "Menunggu pembayaran"]);
  assert.ok(!page.asked.some(({ path }) => path.endsWith("/void")), "another tab may show it");
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  assert.deepEqual([text("warnings"), text("title")], [
    "Struk A-1 dari tab lain menerima pembayaran. Periksa apakah barangnya sudah diserahkan.",
    "Menunggu pembayaran",
  ]);
  await presses(page.at("read"));
  hub.captures(own);
  await hears("payment.captured", { payment: own.id, sale: own.sale, due_minor: 0 });
  assert.deepEqual([text("title"), isShown("earlier")], ["LUNAS", false]);
});

test("what is rung up while the open sales are read is nobody else's", async () => {
  let read;
  const reading = new Promise((done) => (read = done));
  page.answers = async (asked) => {
    if (asked.path.endsWith("/sales?state=open&limit=200")) await reading;
    return structuredClone(await hub.answers(asked));
  };
  await opens({ hash: `#token=${TOKEN}`, answers: page.answers });
  await page.clock.go(1_000);
  const payment = await rings();
  read();
  await page.clock.go(0);
  assert.equal(isShown("earlier"), false);
  hub.captures(payment);
});

test("what became of a sale that was let go is asked until it is answered", async () => {
  hub.providersAnswer = false;
  const payment = await rings();
  await presses(page.at("call-off"));
  await presses(page.at("next"));
  hub.captures(payment);
  hub.silences = ({ path }) => path.startsWith("/v1/sales/");
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  assert.doesNotMatch(text("warnings"), /ternyata dibayar/);
  hub.silences = () => false;
  await page.clock.go(POLL_MS);
  assert.match(text("warnings"), /ternyata dibayar/);
});

test("that a sale which is let go was just paid, is found out though it cannot be voided", async () => {
  hub.providersAnswer = false;
  const payment = await rings();
  await presses(page.at("call-off"));
  hub.captures(payment); // Which nobody has told the page.
  await presses(page.at("next"));
  await page.clock.go(POLL_MS);
  assert.match(text("warnings"), /^Struk A-1 ternyata dibayar/);
  const asked = page.asked.length;
  await page.clock.go(2 * POLL_MS);
  assert.equal(page.asked.length, asked, "that is the end of it");
});

test("what was told of a sale that was let go, and read, does not come again", async () => {
  hub.providersAnswer = false;
  const payments = [];
  for (let at = 0; at < 2; at += 1) {
    payments.push(await rings());
    await presses(page.at("call-off"));
    await presses(page.at("next"));
  }
  const [, second] = payments;
  const captured = ({ id, sale }) => hears("payment.captured", { payment: id, sale, due_minor: 0 });
  for (const payment of payments) hub.captures(payment);
  hub.silences = ({ method, path }) => method === "GET" && path.startsWith("/v1/sales/");
  for (const payment of payments) await captured(payment);
  hub.silences = () => false;
  // Both are asked for again; while the first is slow, what became of the second is heard, and twice.
  const { answers } = hub;
  let said;
  const thinks = new Promise((done) => (said = done));
  page.answers = async (asked) => {
    const answer = structuredClone(await answers(asked));
    if (hub.isSlow(asked)) await thinks;
    return answer;
  };
  hub.isSlow = ({ path }) => path === `/v1/sales/${payments[0].sale}`;
  await page.clock.go(POLL_MS);
  await captured(second);
  hub.isSlow = ({ path }) => path.startsWith("/v1/sales/");
  await captured(second);
  assert.match(text("warnings"), /Struk A-2 ternyata dibayar/);
  await presses(page.at("read"));
  said();
  await page.clock.go(0);
  assert.match(text("warnings"), /^Struk A-1 ternyata dibayar[^.]*\. Panggil atasan\.$/);
});

test("a late answer that a sale is not voided does not hide that it was paid", async () => {
  hub.providersAnswer = false;
  const payment = await rings();
  await presses(page.at("call-off"));
  const { answers } = hub;
  let said;
  const thinks = new Promise((done) => (said = done));
  page.answers = async (asked) => {
    const answer = structuredClone(await answers(asked));
    if (asked.path.endsWith("/void")) await thinks;
    return answer;
  };
  await presses(page.at("next"));
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  said();
  await page.clock.go(0);
  assert.match(text("warnings"), /^Struk A-1 ternyata dibayar/);
});

test("an older answer opens no sale again", async () => {
  const payment = await rings();
  const { answers } = hub;
  let said;
  const thinks = new Promise((done) => (said = done));
  let looks = 0;
  page.answers = async (asked) => {
    const answer = structuredClone(await answers(asked));
    if (asked.method === "GET" && asked.path === `/v1/sales/${payment.sale}` && (looks += 1) === 1) await thinks;
    return answer;
  };
  payment.state = "canceled";
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "canceled" });
  hub.sales.get(payment.sale).state = "completed";
  await hears("payment.captured", { payment: "another", sale: payment.sale, due_minor: 0 });
  assert.equal(text("title"), "Penjualan ini sudah lunas");
  said();
  await page.clock.go(0);
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
});

test("an older answer ends no doubt that came after it", async () => {
  const payment = await rings();
  const { answers } = hub;
  let said;
  const thinks = new Promise((done) => (said = done));
  page.answers = async (asked) => {
    const answer = structuredClone(await answers(asked));
    if (asked.method === "GET" && asked.path === `/v1/sales/${payment.sale}`) await thinks;
    return answer;
  };
  payment.state = "canceled";
  await hears("payment.changed", { payment: payment.id, sale: payment.sale, state: "canceled" });
  hub.sales.get(payment.sale).state = "completed";
  hub.loses = () => true;
  await hears("payment.captured", { payment: "another", sale: payment.sale, due_minor: 0 });
  said();
  await page.clock.go(0);
  assert.equal(text("title"), "Dibatalkan");
  hub.loses = () => false;
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), offered()], ["Penjualan ini sudah lunas", ["next"]]);
});

test("a payment whose calling off was not answered is not said to go on", async () => {
  const isCancel = ({ path }) => path.endsWith("/cancel");
  // It is called off all the same.
  hub.silences = isCancel;
  const first = await rings();
  await presses(page.at("call-off"));
  await page.clock.go(TRIES_MS);
  assert.deepEqual([first.state, text("title"), isShown("note"), offered()], ["canceled", "Dibatalkan", false, [...WAYS, "next"]]);
  // Nor can anybody be asked: until then nobody knows.
  await presses(page.at("next"));
  await rings();
  hub.loses = (asked) => isCancel(asked) || asked.method === "GET";
  await presses(page.at("call-off"));
  await page.clock.go(TRIES_MS);
  assert.deepEqual([text("title"), text("note-text")], ["Menunggu pembayaran", "Hub tidak menjawab; hasilnya sedang dicari tahu."]);
  [hub.loses, hub.silences] = [() => false, () => false];
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("title"), isShown("note"), offered()], ["Menunggu pembayaran", false, ["call-off"]], "it did not come to the hub");
});

test("that a payment cannot be called off is said until it has ended otherwise", async () => {
  const payment = await rings();
  hub.refuses = "capture_under_way";
  await presses(page.at("call-off"));
  assert.deepEqual([text("note-text"), text("note-why"), offered()], ["Tidak dapat dibatalkan.", "capture_under_way", ["call-off"]]);
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  assert.deepEqual([text("title"), isShown("note")], ["LUNAS", false]);
});

test("where nothing is heard the hub is asked, though the connection seems to be there", async () => {
  const payment = await rings();
  hub.captures(payment); // Which is told into the void.
  await waits(24_000);
  page.sockets.says("ping");
  const asked = page.asked.length;
  await page.clock.go(29_000);
  assert.deepEqual([page.asked.length, text("state"), page.body.dataset.state], [asked, "Terhubung", "live"]);
  // One that hangs does not keep the next one from being asked.
  hub.hangs = ({ path }) => path.startsWith("/v1/payments/");
  await page.clock.go(2 * POLL_MS);
  assert.ok(page.asked.length >= asked + 2);
  assert.deepEqual([text("state"), text("title"), isShown("away")], ["Hub tidak terdengar; sedang ditanya", "Menunggu pembayaran", true]);
  hub.hangs = () => false;
  await page.clock.go(2 * POLL_MS);
  assert.equal(text("title"), "LUNAS");
  page.sockets.says("ping");
  await page.clock.go(POLL_MS);
  assert.deepEqual([text("state"), page.body.dataset.state], ["Terhubung", "live"]);
});

test("a slow network finds out all the same that it is paid", async () => {
  const payment = await rings();
  hub.captures(payment);
  page.sockets.says("disconnect", "transport close");
  // Payment and sale, each for longer than a look may take at first.
  page.answers = async (asked) => {
    await new Promise((done) => page.clock.after(done, 7_000));
    return hub.answers(asked);
  };
  await page.clock.go(60_000);
  assert.equal(text("title"), "LUNAS");
  // Once it is quick again, what hangs keeps nobody for long.
  page.answers = hub.answers;
  await page.clock.go(3 * POLL_MS);
  hub.hangs = ({ path }) => path.startsWith("/v1/payments/");
  const looks = () => page.asked.filter(({ method, path }) => method === "GET" && hub.hangs({ path })).length;
  const before = looks();
  await page.clock.go(2 * POLL_MS);
  assert.equal(looks() - before, 2);
});

test("no code is shown whose time is over, though nobody says what became of it", async () => {
  const payment = await rings();
  page.sockets.says("disconnect", "transport close");
  hub.loses = () => true;
  await page.clock.go(60_000);
  assert.deepEqual([text("away"), isShown("away"), isShown("qr")], ["Menghubungkan kembali", true, true]);
  await page.clock.go(LIFE_MS - 61_000);
  assert.deepEqual([isShown("qr"), text("title")], [true, "Menunggu pembayaran"]);
  await page.clock.go(2_000);
  assert.deepEqual([isShown("qr"), isShown("left"), text("title")], [false, false, "Waktu habis, menunggu kepastian"]);
  assert.equal(isShown("away"), true);
  // It was paid in time after all.
  hub.loses = () => false;
  hub.captures(payment);
  await page.clock.go(POLL_MS + TRIES_MS);
  assert.deepEqual([text("title"), isShown("away")], ["LUNAS", false]);
});

test("a picture that does not come is asked for again", async () => {
  hub.loses = ({ path }) => path.endsWith("/qr.svg");
  await rings();
  await page.clock.go(TRIES_MS);
  assert.deepEqual([isShown("qr"), isShown("no-qr")], [false, true]);
  hub.loses = () => false;
  await page.clock.go(POLL_MS);
  assert.deepEqual([isShown("qr"), isShown("no-qr")], [true, false]);
});

test("the keyboard stays where it is, and goes on at the counter when that is gone", async () => {
  const bread = shelf("Roti");
  await presses(bread);
  await presses(bread);
  assert.equal(page.focused, bread);
  const [less] = buttons("lines");
  await presses(less);
  assert.deepEqual([page.focused === less, text("lines").startsWith("1 ×")], [true, true]);
  await presses(less);
  assert.equal(page.focused, page.at("shop-title"), "the line is gone, and was the last");
  const payment = await rings();
  assert.equal(page.focused, page.at("counter-title"), "and so are the ways to pay");
  assert.deepEqual(buttons("shelf").map((it) => it.getAttribute("aria-disabled")), ["true", "true"]);
  await presses(bread);
  assert.equal(text("lines").startsWith("1 ×"), true, "what is rung up is not changed");
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  await presses(page.at("next"));
  assert.equal(page.focused, page.at("shop-title"), "the next customer begins there");
});

test("what lies in the basket is seen at the shelf, which hides it on a phone", async () => {
  const taken = (name) => shelf(name).querySelector(".taken").textContent;
  assert.deepEqual([isShown("to-counter"), taken("Roti")], [false, ""]);
  await presses(shelf("Roti"));
  await presses(shelf("Roti"));
  await presses(shelf("Susu"));
  assert.deepEqual([taken("Roti"), taken("Susu"), isShown("to-counter")], ["2 × di keranjang", "1 × di keranjang", true]);
  assert.equal(text("so-far").replaceAll("\u00a0", " "), "Rp 33.250");
  await presses(page.at("to-counter"));
  assert.deepEqual([page.scrolled.at(-1), page.focused === page.at("counter-title")], ["counter", true]);
  await pays("QRIS Midtrans");
  assert.equal(isShown("to-counter"), false, "the counter is on top by now");
  await presses(page.at("call-off"));
  await presses(page.at("next"));
  assert.deepEqual([taken("Roti"), isShown("to-counter")], ["", false]);
});

test("a button that is pressed twice asks once", async () => {
  await presses(shelf("Roti"));
  const [qris] = buttons("ways");
  qris.click();
  qris.click();
  await page.clock.go(0);
  assert.deepEqual([hub.sales.size, hub.payments.size], [1, 1]);
});

test("a token that is for no register opens no till", async () => {
  page = await load("../cashier", { answers: hub.answers });
  assert.deepEqual([isShown("door"), text("door-title"), page.asked.length], [true, "Halaman ini memerlukan token", 0]);
  page.at("token").value = `http://hub/kasir#token=e30.${encoded({ role: "display" })}.c2ln`;
  page.at("door-form").submit();
  assert.deepEqual([text("door-title"), page.at("token").value, page.asked.length], ["Ini bukan token kasir", "", 0]);
  page.at("token").value = TOKEN;
  page.at("door-form").submit();
  await page.clock.go(0);
  assert.deepEqual([isShown("door"), isShown("till"), text("place")], [false, true, "Toko Roti · Kasir 1"]);
});

test("a wrong token at the door leaves a till as it is", async () => {
  const payment = await rings();
  await enters(`e30.${encoded({ role: "display" })}.c2ln`);
  assert.deepEqual([text("door-title"), text("state")], ["Ini bukan token kasir", "Terhubung"]);
  await reloads();
  assert.deepEqual([isShown("door"), text("title")], [false, "Menunggu pembayaran"], "and it is not kept");
  hub.captures(payment);
  await hears("payment.captured", { payment: payment.id, sale: payment.sale, due_minor: 0 });
  assert.equal(text("title"), "LUNAS");
});

test("a till that is left while it rings up asks for no payment, and keeps back nothing", async () => {
  hub.silences = ({ path }) => path.endsWith("/sales");
  await rings();
  await enters(`e30.${encoded({ outlets: ["o"], register: "q" })}.c2ln`);
  connects();
  hub.silences = () => false;
  const payment = await rings();
  await page.clock.go(TRIES_MS);
  const [left, own] = [...hub.sales.values()];
  assert.deepEqual([left.state, own.state, hub.payments.size, payment.sale], ["voided", "open", 1, own.id]);
  assert.deepEqual([text("counter-title"), text("title")], ["Struk A-2", "Menunggu pembayaran"]);
  assert.equal(JSON.parse(page.kept.get("tillwire.cashier.sale.q")).sale.id, own.id, "what is kept is the other's");
});

test("another till on the screen has nothing of the first one's payment, which is found again there", async () => {
  const other = `e30.${encoded({ outlets: ["o"], register: "q" })}.c2ln`;
  // Its picture may be there, or be on its way.
  for (const label of ["QRIS Midtrans", "QRIS Xendit"]) {
    let drawn = null;
    const { answers } = hub;
    const isSlow = label === "QRIS Xendit";
    const picture = new Promise((done) => (drawn = done));
    page.answers = async (asked) => {
      if (isSlow && asked.path.endsWith("/qr.svg")) await picture;
      return answers(asked);
    };
    await presses(shelf("Roti"));
    await pays(label);
    const payment = [...hub.payments.values()].at(-1);
    assert.equal(isShown("qr"), !isSlow);
    await enters(other);
    drawn();
    await page.clock.go(0);
    page.answers = answers;
    connects();
    const qr = () => [page.at("qr").hidden, page.at("qr").getAttribute("src")];
    assert.deepEqual([isShown("till"), isShown("payment"), qr()], [true, false, [true, null]]);
    assert.deepEqual([page.body.dataset.step, payment.state, hub.sales.get(payment.sale).state], ["ringing", "pending", "open"]);
    hub.captures(payment);
    // It rings up its own meanwhile, and warns of its own.
    await hears("payment.changed", { payment: "old", sale: "old", state: "reversed" });
    await presses(shelf("Roti"));
    await pays("QRIS Midtrans");
    const own = [...hub.payments.values()].at(-1);
    await enters(TOKEN);
    connects();
    assert.deepEqual([text("title"), text("way"), isShown("earlier")], ["LUNAS", label, false]);
    await presses(page.at("next"));
    await enters(other);
    connects();
    assert.deepEqual([text("title"), isShown("qr"), isShown("earlier"), own.state], ["Menunggu pembayaran", true, true, "pending"]);
    hub.captures(own);
    await hears("payment.captured", { payment: own.id, sale: own.sale, due_minor: 0 });
    await presses(page.at("next"));
    await presses(page.at("read"));
    await enters(TOKEN);
    connects();
  }
});

test("what comes to a till that was left is neither sounded nor shown, and changes nothing that is kept", async () => {
  hub.begins = { state: "paid", shown: null };
  const { answers } = hub;
  let said;
  const thinks = new Promise((done) => (said = done));
  page.answers = async (asked) => {
    const answer = await answers(asked);
    if (asked.path.endsWith("/payments")) await thinks;
    return answer;
  };
  const payment = await rings();
  hub.captures(payment);
  const other = `e30.${encoded({ outlets: ["o"], register: "q" })}.c2ln`;
  await enters(other);
  await enters(TOKEN);
  connects();
  assert.deepEqual([text("title"), page.notes], ["LUNAS", 2]);
  await presses(page.at("next"));
  said();
  await page.clock.go(0);
  assert.deepEqual([page.body.dataset.step, page.notes], ["ringing", 2]);
  page.answers = answers;
  await reloads();
  assert.deepEqual([page.body.dataset.step, isShown("payment")], ["ringing", false]);
});

test("the door says in the cashier's language what became of the token, and marks what it has from the hub", async () => {
  const said = () => page.at("door-why").querySelectorAll("span").map(({ lang, textContent }) => [lang, textContent]);
  for (const [reason, why] of [["expired", /^Token sudah berakhir\. Buka tautan yang baru di tab ini;/], ["revoked", /^Token ini sudah dicabut\./]]) {
    page.sockets.says("signed_out", { reason });
    assert.deepEqual([text("door-title"), said(), isShown("retry")], ["Hub meminta token lain", [], false]);
    assert.match(text("door-why"), why);
    assert.equal(page.at("door-why").parent.getAttribute("role"), "alert", "it is read out, without the form");
  }
  page.sockets.says("disconnect", "io server disconnect");
  assert.deepEqual([text("door-why"), said()], ["Hub memutuskan koneksi halaman ini.", []]);
  const answers = async () => ({ status: 401, body: { code: "token_invalid", detail: "This is no token." } });
  page = await load("../cashier", { hash: `#token=${TOKEN}`, answers });
  assert.equal(text("door-why"), "Token ini tidak diterima: This is no token. (token_invalid)");
  assert.deepEqual(said(), [["en", "This is no token. (token_invalid)"]]);
});

test("a till that was sent away is let in again by the same door", async () => {
  page.sockets.says("disconnect", "io server disconnect");
  assert.deepEqual([text("door-title"), isShown("retry"), text("state")], ["Terputus", true, "Tidak terhubung"]);
  await presses(page.at("retry"));
  assert.deepEqual([isShown("door"), text("state")], [false, "Menghubungkan kembali"]);
});
