// The cashier's page: rings up a few products, shows the customer's code, and says LUNAS when the hub has said that it is paid.

import * as format from "../live/format.js";
import { Refused } from "../live/hub.js";
import { Screen } from "../live/screen.js";
import { claims, tokenFromAddress, tokenIn } from "../live/token.js";
import { Basket, left, sellable } from "./basket.js";
import { chime, prepare } from "./chime.js";
import { Hub, newId } from "./hub.js";
import { Payment, countdown, grouped, words } from "./payment.js";
import { CASH, carries, offered } from "./ways.js";

const TOKEN_KEY = "tillwire.cashier.token";
const SALE_KEY = "tillwire.cashier.sale";
const PRODUCTS_SHOWN = 12;
const PRODUCTS_PER_PAGE = 200;
/** How many levels of stock are asked for at once. */
const LEVELS_AT_ONCE = 24;
const POLL_EVERY_MS = 5_000;
const TICK_MS = 1_000;
const REREAD_MIN_MS = 1_000;
const REREAD_MAX_MS = 30_000;

const $ = (id) => document.getElementById(id);
const template = (id) => $(id).content.firstElementChild.cloneNode(true);

let hub = null;
let screen = null;
let outlet = "";
let register = "";
let products = [];
let ways = [CASH];
const basket = new Basket();
/** What was rung up: { id, totalMinor, currency, number }. None while the basket is still being filled. */
let sale = null;
/** The payment on the screen, and what the button was called. */
let payment = null;
let wayLabel = "";
/** Whether the hub is just being asked for something that must not be asked for twice. */
let busy = false;
/** Counts beginnings: what an earlier one still reads is of no use. */
let beginning = 0;
let word = "starting";
/** The address of the code's picture, and for which payment it is. */
let picture = { of: null, url: null };

// --- The token -------------------------------------------------------------------------------------------------------

function take(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
  closeDoor();
  const { outlets = [], register: till = "" } = claims(token);
  if (outlets.length !== 1 || !till) {
    state("refused");
    return openDoor("Ini bukan token kasir", "Yang diperlukan adalah token untuk satu outlet dan satu register.");
  }
  if (screen && outlets[0] === outlet && till === register) {
    hub.token = token;
    return screen.renew(token);
  }
  if (till !== register && register) leave();
  [outlet, register] = [outlets[0], till];
  hub = new Hub(token);
  begin();
}

function openDoor(title, why, { retry = false } = {}) {
  $("door-title").textContent = title;
  $("door-why").textContent = why;
  $("retry").hidden = !retry;
  $("door").hidden = false;
}

function closeDoor() {
  $("door").hidden = true;
  $("token").value = "";
}

$("door-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  take(tokenIn($("token").value));
});
$("retry").addEventListener("click", () => {
  closeDoor();
  screen.resume();
});
// A fresh link, opened in the same tab.
addEventListener("hashchange", () => {
  const token = tokenFromAddress();
  if (token) take(token);
});

// --- The shop, and what is told of it --------------------------------------------------------------------------------

/** Reads the shop and listens from its position. Tries until the hub answers or refuses, or another begins. */
async function begin({ delay = 0 } = {}) {
  beginning += 1;
  const own = beginning;
  screen?.close();
  screen = null;
  state("reading");
  let wait = delay;
  for (let pause = REREAD_MIN_MS; ; pause = Math.min(2 * pause, REREAD_MAX_MS)) {
    await new Promise((done) => setTimeout(done, wait));
    if (own !== beginning) return;
    try {
      const read = await readShop();
      if (own === beginning) open(read);
      return;
    } catch (error) {
      if (own !== beginning) return;
      if (error instanceof Refused) return refused(error.code, error.message);
      state("unreachable");
      wait = pause;
    }
  }
}

/** The position comes first: what happens while the rest is read is heard afterwards. */
async function readShop() {
  const { position } = await hub.get(`/v1/snapshot?channel=${channel()}`);
  const [place, methods, shelf] = await Promise.all([
    hub.get(`/v1/outlets/${outlet}`),
    hub.get(`/v1/outlets/${outlet}/payment-methods`),
    readShelf(),
  ]);
  return { position, place, methods, shelf };
}

/** The first products of the catalogue that are in stock here. */
async function readShelf() {
  const page = await hub.get(`/v1/products?limit=${PRODUCTS_PER_PAGE}`);
  const [shelf, candidates] = [[], sellable(page.items)];
  for (let at = 0; at < candidates.length && shelf.length < PRODUCTS_SHOWN; at += LEVELS_AT_ONCE) {
    const some = candidates.slice(at, at + LEVELS_AT_ONCE);
    const levels = await Promise.all(some.map(({ variant }) => hub.get(`/v1/outlets/${outlet}/stock/${variant}`)));
    some.forEach((product, of) => {
      if (left(levels[of]) > 0) shelf.push({ ...product, left: left(levels[of]) });
    });
  }
  return shelf.slice(0, PRODUCTS_SHOWN);
}

const channel = () => `payments/${outlet}/${register}`;

function open({ position, place, methods, shelf }) {
  const till = place.registers.find(({ id }) => id === register);
  $("place").textContent = [place.name, till?.name].filter(Boolean).join(" · ");
  ways = offered(methods);
  products = shelf;
  $("till").hidden = false;
  drawShelf();
  draw();
  screen = new Screen({ token: hub.token, channels: [channel()], position, tell });
  look(); // What was told before our position we do not hear.
}

const tell = {
  state,
  refused,
  moved() {},
  transport() {},
  event(envelope) {
    hear(envelope);
  },
  away() {},
  back() {},
  denied(list) {
    const codes = list.map(({ code }) => code).join(", ");
    openDoor("Pembayaran tidak dapat didengar", `Token ini tidak boleh mendengar register ini (${codes}).`);
  },
  stale() {
    // Not at once: should the next position not be served either, this must not spin.
    begin({ delay: REREAD_MIN_MS });
  },
  expiring(seconds) {
    openDoor("Token segera berakhir", `Masih berlaku ${seconds} detik. Buka tautan yang baru; penjualan ini tetap ada.`);
  },
};

function refused(code, detail) {
  state("refused");
  const retry = code === "disconnected";
  openDoor(retry ? "Terputus" : "Hub meminta token lain", `${detail} (${code})`, { retry });
}

const STATES = {
  reading: "Membaca toko",
  unreachable: "Hub tidak menjawab; mencoba lagi",
  connecting: "Menghubungkan",
  reconnecting: "Menghubungkan kembali",
  "catching-up": "Menyusul",
  live: "Terhubung",
  draining: "Pindah ke node lain",
  refused: "Tidak terhubung",
};

function state(name) {
  word = name;
  document.body.dataset.state = name;
  $("state").textContent = STATES[name] ?? name;
}

// --- The sale --------------------------------------------------------------------------------------------------------

/** Asks for a payment; the first one of a basket rings it up before. */
async function pay(way) {
  if (busy) return;
  prepare();
  note();
  busy = true;
  draw();
  try {
    sale ??= await ringUp();
  } catch (error) {
    busy = false;
    note("Penjualan ini tidak dapat dibuka.", error.message);
    draw();
    return readAgain();
  }
  // Known before it is asked for, and kept: whatever is lost on the way, this is the one on the screen.
  const own = new Payment(newId());
  [payment, wayLabel] = [own, way.label];
  remember();
  draw();
  try {
    const cash = way === CASH && { amount_minor: sale.totalMinor };
    own.answered(await hub.post(`/v1/sales/${sale.id}/payments`, { id: own.id, ...way.body, ...cash }));
  } catch (error) {
    if (error instanceof Refused) own.refused(error.message);
    else note("Hub tidak menjawab; hasilnya sedang dicari tahu.", error.message);
  }
  busy = false;
  changed(own);
}

/** The id is the key as well: however often it is sent, it is one sale. */
async function ringUp() {
  const id = newId();
  const opened = await hub.post(`/v1/outlets/${outlet}/sales`, basket.sale(id, register), id);
  // What the shelf says until it is read again.
  for (const { product, quantity } of basket.lines()) product.left -= quantity;
  return { id, totalMinor: opened.total_minor, currency: opened.currency, number: opened.number };
}

async function callOff() {
  const own = payment;
  if (busy || !own) return;
  busy = true;
  draw();
  try {
    own.answered(await hub.post(`/v1/payments/${own.id}/cancel`, {}));
  } catch (error) {
    note("Tidak dapat dibatalkan.", error.message);
  }
  busy = false;
  changed(own);
}

/** Clears the screen for the next customer. */
function next() {
  if (busy) return;
  leave();
  drawShelf();
  draw();
  readAgain();
}

/** Lets the sale go. One that nobody has paid is voided; if that cannot be, it ends by itself. */
function leave() {
  if (sale && payment?.mayBeReplaced) {
    hub.post(`/v1/sales/${sale.id}/void`, { reason: "Penjualan baru di kasir" }).catch(() => {});
  }
  [sale, payment, wayLabel] = [null, null, ""];
  basket.clear();
  sessionStorage.removeItem(SALE_KEY);
  note();
}

function hear(envelope) {
  if (!payment) return;
  if (payment.heard(envelope)) return changed(payment);
  // An earlier attempt at the same sale, of which nobody knew: it is not the one on the screen.
  const { type, data } = envelope;
  if (type === "payment.captured" && data.sale === sale.id && data.payment !== payment.id) {
    note("Pembayaran lain untuk penjualan ini sudah masuk. Periksa dulu sebelum meminta lagi.");
  }
}

/** Something is known of a payment. If it is the one on the screen, it is shown. */
function changed(own) {
  if (own !== payment) return;
  // Once for each step to LUNAS that somebody is shown.
  if (own.isPaid && document.body.dataset.step !== "paid") chime();
  draw();
}

/** Asks how the payment stands. */
async function look() {
  const own = payment;
  if (!own?.isOpen || busy) return;
  try {
    own.answered(await hub.get(`/v1/payments/${own.id}`));
    changed(own);
  } catch (error) {
    if (own === payment && error instanceof Refused && error.code === "not_found") await lookAtSale(own);
  }
}

/** The hub has no such payment by a provider: it was taken by hand, or never came there. Its sale knows. */
async function lookAtSale(own) {
  const { tenders } = await hub.get(`/v1/sales/${sale.id}`);
  const taken = tenders.find((tender) => tender.payment === own.id);
  if (taken) own.answered({ payment: taken });
  else own.refused("The hub knows nothing of this payment.");
  changed(own);
}

async function readAgain() {
  const own = beginning;
  try {
    const shelf = await readShelf();
    if (own !== beginning) return;
    products = shelf;
    drawShelf();
  } catch {
    // The shelf stays as it was; the hub has the last word on each sale.
  }
}

// --- What a reload must not lose -------------------------------------------------------------------------------------

function remember() {
  sessionStorage.setItem(SALE_KEY, JSON.stringify({ register, sale, wayLabel, payment: payment.id }));
}

/** The sale that was on the screen before it was loaded anew, if it was this register's. */
function recall(token) {
  const kept = JSON.parse(sessionStorage.getItem(SALE_KEY));
  if (!kept || kept.register !== claims(token).register) return;
  [sale, wayLabel] = [kept.sale, kept.wayLabel];
  payment = new Payment(kept.payment);
}

// --- What is shown ---------------------------------------------------------------------------------------------------

/** What went wrong, in our words; and in the hub's, which are English. */
function note(text = "", why = "") {
  $("note").hidden = text === "";
  $("note-text").textContent = text;
  $("note-why").textContent = why;
}

/** Where the cashier is. */
function step() {
  if (!sale) return "ringing";
  if (!payment || payment.isOpen) return "waiting";
  if (payment.isPaid) return "paid";
  return payment.cameToNothing ? "failed" : "late";
}

function drawShelf() {
  const shelf = products.filter((product) => product.left > 0);
  $("no-products").hidden = shelf.length > 0;
  $("shelf").replaceChildren(
    ...shelf.map((product) => {
      const item = template("product-template");
      item.querySelector(".name").textContent = product.name;
      item.querySelector(".price").textContent = format.amount(product.priceMinor, product.currency);
      item.querySelector(".left").textContent = `sisa ${format.count(product.left)}`;
      item.querySelector("button").addEventListener("click", () => {
        if (sale || busy) return;
        note(basket.add(product) ? "" : "Stok barang ini tidak cukup.");
        draw();
      });
      return item;
    }),
  );
}

function draw() {
  const now = step();
  document.body.dataset.step = now;
  const currency = sale?.currency ?? products[0]?.currency ?? "IDR";
  const totalMinor = sale?.totalMinor ?? basket.totalMinor();
  drawLines(currency);
  $("sum").textContent = format.amount(totalMinor, currency);
  drawPayment();
  drawWays(totalMinor);
  $("call-off").hidden = !payment?.isOpen || payment.closing;
  $("clear").hidden = sale !== null || basket.lines().length === 0;
  $("next").hidden = !payment || (payment.isOpen && !payment.mayBeReplaced);
  for (const id of ["call-off", "clear", "next"]) $(id).setAttribute("aria-disabled", String(busy));
}

function drawLines(currency) {
  const lines = basket.lines();
  $("no-lines").hidden = lines.length > 0 || sale !== null;
  $("counter-title").textContent = sale ? `Struk ${sale.number}` : "Keranjang";
  $("lines").replaceChildren(
    ...lines.map(({ product, quantity }) => {
      const item = template("line-template");
      item.querySelector(".quantity").textContent = `${quantity} ×`;
      item.querySelector(".name").textContent = product.name;
      item.querySelector(".price").textContent = format.amount(product.priceMinor * quantity, currency);
      const less = item.querySelector(".less");
      less.hidden = sale !== null;
      less.setAttribute("aria-label", `Kurangi ${product.name}`);
      less.addEventListener("click", () => {
        if (busy) return;
        basket.remove(product.variant);
        draw();
      });
      return item;
    }),
  );
}

function drawPayment() {
  $("payment").hidden = !payment;
  drawPicture();
  drawCountdown();
  if (!payment) return;
  const { title, text } = words(payment);
  $("way").textContent = wayLabel;
  // Only what is new is put in: a screen reader says it once.
  if ($("title").textContent !== title) $("title").textContent = title;
  $("text").textContent = text;
  $("why").hidden = !payment.failure;
  $("why").textContent = payment.failure ?? "";
  const shown = payment.shown ?? {};
  const account = { virtual_account: [shown.bank, shown.number], bill: [shown.biller_code, shown.bill_key] }[shown.type];
  $("account").hidden = !account;
  $("bank").textContent = account ? account[0].toUpperCase() : "";
  $("number").textContent = account ? grouped(account[1]) : "";
}

/** The code's picture, which has to be asked for with the token: an image cannot do that by itself. */
async function drawPicture() {
  const own = payment?.state === "pending" && payment.shown?.type === "qr" ? payment.id : null;
  if (own === picture.of) return;
  if (picture.url) URL.revokeObjectURL(picture.url);
  picture = { of: own, url: null };
  $("qr").hidden = true;
  $("qr").removeAttribute("src");
  if (!own) return;
  try {
    const url = URL.createObjectURL(await hub.picture(`/v1/payments/${own}/qr.svg`));
    if (picture.of !== own) return URL.revokeObjectURL(url);
    picture.url = url;
    $("qr").src = url;
    $("qr").hidden = false;
  } catch (error) {
    if (picture.of !== own) return;
    picture.of = null; // It is asked for again with whatever is drawn next.
    note("Kode tidak dapat ditampilkan.", error.message);
  }
}

function drawCountdown() {
  const left = payment?.state === "pending" ? countdown(payment.expiresAt, Date.now() + hub.clock) : "";
  $("left").hidden = left === "";
  $("countdown").textContent = left;
}

function drawWays(totalMinor) {
  $("ways").hidden = sale !== null && !payment?.mayBeReplaced;
  $("ways").replaceChildren(
    ...ways.map((way) => {
      const isOff = busy || totalMinor === 0 || !carries(way, totalMinor);
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = way.label;
      button.setAttribute("aria-disabled", String(isOff));
      button.addEventListener("click", () => {
        if (!isOff) pay(way);
      });
      return button;
    }),
  );
}

$("call-off").addEventListener("click", callOff);
$("next").addEventListener("click", next);
$("clear").addEventListener("click", () => {
  if (busy) return;
  basket.clear();
  note();
  draw();
});

setInterval(drawCountdown, TICK_MS);
// While nothing is heard, the hub is asked.
setInterval(() => {
  if (word !== "live") look();
}, POLL_EVERY_MS);

const token = tokenFromAddress() ?? sessionStorage.getItem(TOKEN_KEY);
if (token) {
  recall(token);
  take(token);
} else {
  state("refused");
  openDoor("Halaman ini memerlukan token", "Di sini kasir menjual: hanya untuk yang memegang token kasir.");
}
