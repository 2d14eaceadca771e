// The customer's bank: looks every second at what can be paid, and pays it.

const LOOK_EVERY_MS = 1_000;
// How many bills that are no longer open can still be paid late.
const LATE_MAX = 3;
const ANSWER_MAX_MS = 5_000;

const $ = (id) => document.getElementById(id);
const rupiah = new Intl.NumberFormat("id-ID", { style: "currency", currency: "IDR", maximumFractionDigits: 0 });
const moment = new Intl.DateTimeFormat("id-ID", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Jakarta" });

/** The bills on the page, by id: what they are, their element, and whether they can only be paid late. */
const bills = new Map();
/** Whether something is just being done: nothing else is meanwhile, and the buttons say so. */
let acting = false;
/** The look before the next one: they come one after another, so that none draws what is old. */
let looked = Promise.resolve();

/** The simulators answered, and will not. */
class Refused extends Error {}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`/_sim/${path}`, { ...options, signal: AbortSignal.timeout(ANSWER_MAX_MS) });
  const said = await answer.json();
  if (!answer.ok) throw new Refused(said.error);
  return said;
}

/** Says what came of it. Why something failed the simulators say in English. */
function tell(text, why) {
  const reason = document.createElement("span");
  reason.lang = "en";
  reason.textContent = why ?? "";
  $("told").replaceChildren(text, reason);
  $("told").classList.toggle("failed", why !== undefined);
}

function acts(is) {
  acting = is;
  document.body.setAttribute("aria-busy", String(is));
  for (const button of document.body.querySelectorAll("button")) button.setAttribute("aria-disabled", String(is));
}

/** Does what a button or the form asks for, and says what came of it. What was entered for it is for nothing else. */
async function act(path, body, words) {
  if (acting) return;
  acts(true);
  try {
    const said = await ask(path, body);
    if (path === "pay") $("qr").value = $("amount").value = "";
    tell(`${words} (${said.reference}: ${said.status})`);
  } catch (error) {
    tell(error instanceof Refused ? "Tidak berhasil: " : "Tidak dijawab, mungkin berhasil: ", error.message);
  }
  await look();
  acts(false);
}

function drawn(template, bill) {
  const item = $(template).content.firstElementChild.cloneNode(true);
  const put = (name, text) => {
    const place = item.querySelector(`.${name}`);
    if (place) place.textContent = text ?? "";
  };
  put("amount", bill.amount === null ? "Jumlah bebas" : rupiah.format(bill.amount));
  put("merchant", bill.merchant);
  put("method", bill.method);
  put("number", bill.number);
  put("reference", bill.reference);
  put("expires", bill.expires ? moment.format(new Date(bill.expires)) : "–");
  for (const button of item.querySelectorAll("button")) button.setAttribute("aria-disabled", String(acting));
  return item;
}

function show(bill) {
  const item = drawn("bill", bill);
  const { provider, id } = bill;
  item.querySelector(".pay").addEventListener("click", () => {
    const amount = bill.amount === null ? Number($("amount").value) || undefined : undefined;
    act("pay", { provider, id, issuer: $("issuer").value, amount }, "Dibayar");
  });
  item.querySelector(".fail").addEventListener("click", () => {
    act("fail", { provider, id, deny: provider === "midtrans" }, "Digagalkan");
  });
  bills.set(id, { bill, item, late: false });
  $("open").prepend(item);
}

function drop(id) {
  const focused = document.activeElement;
  bills.get(id).item.remove();
  bills.delete(id);
  // Where the keyboard was is gone: it goes on from where it is said what came of it, and not from the top.
  if (focused && !focused.isConnected) $("told").focus();
}

/** One that is over, and of which no money came, can be paid late. */
function showLate(bill) {
  const item = drawn("late", bill);
  const { provider, id, amount } = bill;
  item.querySelector(".pay").addEventListener("click", () => {
    const issuer = $("issuer").value;
    act("pay", { provider, id, issuer, amount: amount ?? undefined, late: true }, "Dibayar terlambat");
  });
  bills.set(id, { bill, item, late: true });
  $("open").append(item);
  const all = [...bills].filter(([, { late }]) => late);
  for (const [oldest] of all.slice(0, -LATE_MAX)) drop(oldest);
}

async function draw() {
  const { open, late } = await ask("open");
  const [isOpen, isLate] = [new Set(open.map(({ id }) => id)), new Set(late)];
  for (const [id, { bill, late }] of [...bills]) {
    if ((late ? isLate : isOpen).has(id)) continue;
    drop(id);
    if (isLate.has(id)) showLate(bill);
  }
  for (const bill of open.reverse()) if (!bills.has(bill.id)) show(bill);
  $("none").hidden = bills.size > 0;
}

/** Looks at what can be paid, and says so if nobody answers. */
function look() {
  looked = looked.then(draw).then(
    () => ($("away").hidden = true),
    () => ($("away").hidden = false),
  );
  return looked;
}

$("code").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const text = $("qr").value.trim();
  const amount = Number($("amount").value) || undefined;
  const issuer = $("issuer").value;
  const what = /^\d{6,20}$/.test(text) ? { id: text } : { qr: text };
  act("pay", { ...what, issuer, amount }, "Dibayar");
});

for (;;) {
  await look();
  await new Promise((next) => setTimeout(next, LOOK_EVERY_MS));
}
