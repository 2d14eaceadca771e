// The customer's bank: looks every second at what can be paid, and pays it.

const LOOK_EVERY_MS = 1_000;
// How many bills that are no longer open can still be paid late.
const LATE_MAX = 3;

const $ = (id) => document.getElementById(id);
const rupiah = new Intl.NumberFormat("id-ID", { style: "currency", currency: "IDR", maximumFractionDigits: 0 });
const moment = new Intl.DateTimeFormat("id-ID", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Jakarta" });

/** The bills on the page, by id: what they are, and their element. */
const bills = new Map();
/** What was paid or failed here: it will not be late. */
const done = new Set();

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`/_sim/${path}`, options);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
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

/** Does what a button or the form asks for, and says what came of it. */
async function act(path, body, words) {
  try {
    const said = await ask(path, body);
    done.add(said.id);
    tell(`${words} (${said.reference}: ${said.status})`);
    await look();
  } catch (error) {
    tell("Tidak berhasil: ", error.message);
  }
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
  bills.set(id, { bill, item });
  $("open").prepend(item);
}

/** One that is no longer open can be paid late, if nothing was done about it here. */
function close(id) {
  const { bill, item, late } = bills.get(id);
  if (late) return;
  item.remove();
  if (done.has(id)) return bills.delete(id);
  const again = drawn("late", bill);
  again.querySelector(".pay").addEventListener("click", () => {
    const { provider, amount } = bill;
    act("pay", { provider, id, issuer: $("issuer").value, amount: amount ?? undefined, late: true }, "Dibayar terlambat");
    again.remove();
    bills.delete(id);
  });
  bills.set(id, { bill, item: again, late: true });
  $("open").append(again);
  const all = [...bills].filter(([, { late }]) => late);
  for (const [old, { item: gone }] of all.slice(0, Math.max(0, all.length - LATE_MAX))) {
    gone.remove();
    bills.delete(old);
  }
}

async function look() {
  const { open } = await ask("open");
  const ids = new Set(open.map(({ id }) => id));
  for (const id of [...bills.keys()]) if (!ids.has(id)) close(id);
  for (const bill of open.reverse()) if (!bills.has(bill.id)) show(bill);
  $("none").hidden = bills.size > 0;
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
  try {
    await look();
  } catch (error) {
    tell("Simulator tidak menjawab: ", error.message);
  }
  await new Promise((next) => setTimeout(next, LOOK_EVERY_MS));
}
