import assert from "node:assert/strict";
import { test } from "node:test";
import { newId } from "../cashier/hub.js";
import { Payment, afterwards, countdown, grouped, words } from "../cashier/payment.js";

const QR = { type: "qr", text: "000201" };
const changed = (payment, state, more) => ({ type: "payment.changed", data: { payment, state, ...more } });
const captured = (payment) => ({ type: "payment.captured", data: { payment } });

function pending() {
  const payment = new Payment("p");
  payment.answered({ id: "p", state: "pending", shown: QR, expires_at: "2026-11-23T03:15:00Z" });
  return payment;
}

test("LUNAS is for the payment on the screen and for no other", () => {
  const payment = pending();
  assert.equal(payment.heard(captured("another")), false);
  assert.equal(payment.heard(changed("another", "paid")), false);
  assert.equal(payment.answered({ id: "another", state: "paid" }), false);
  assert.deepEqual([payment.state, words(payment).title], ["pending", "Menunggu pembayaran"]);
  assert.equal(payment.heard({ type: "sale.completed", data: { payment: "p" } }), false);
  assert.equal(payment.heard(captured("p")), true);
  assert.deepEqual([payment.isPaid, words(payment).title, payment.shown], [true, "LUNAS", null]);
  assert.equal(payment.heard(captured("p")), false, "nothing new the second time");
});

test("what leaves something due, or pays another sale, is not LUNAS", () => {
  const of = (sale) => {
    const payment = new Payment("p", sale);
    payment.answered({ id: "p", state: "pending", shown: QR });
    return payment;
  };
  const told = (data) => ({ type: "payment.captured", data: { payment: "p", ...data } });
  const part = of("s");
  part.heard(told({ sale: "s", due_minor: 28_500 }));
  assert.deepEqual([part.isPaid, words(part).title], [false, "Dibayar sebagian"]);
  const elsewhere = of("s");
  elsewhere.heard(told({ sale: "t", due_minor: 0 }));
  assert.deepEqual([elsewhere.isPaid, elsewhere.state], [false, "paid_late"]);
  for (const tell of [(it) => it.answered({ id: "p", state: "paid", accepted_for: "t" }), (it) => it.heard(changed("p", "settled", { accepted_for: "t" }))]) {
    const late = of("s");
    tell(late);
    assert.deepEqual([late.isPaid, late.state], [false, "paid_late"]);
  }
  const whole = of("s");
  whole.heard(told({ sale: "s", due_minor: 0 }));
  assert.deepEqual([whole.isPaid, words(whole).title], [true, "LUNAS"]);
});

test("a payment of which nothing was said is being checked, by whatever way it is paid", () => {
  const payment = new Payment("p");
  assert.deepEqual(words(payment), { title: "Memeriksa pembayaran…", text: "" });
  payment.heard(changed("p", "created"));
  assert.equal(words(payment).title, "Menunggu penyedia");
});

test("no state but paid and settled says LUNAS", () => {
  const states =
    "created unknown pending review authorized failed canceled expired paid_late partially_refunded refunded reversed charged_back";
  for (const state of states.split(" ")) {
    const payment = new Payment("p");
    payment.heard(changed("p", state));
    assert.deepEqual([payment.state, payment.isPaid], [state, false]);
    assert.ok(words(payment).title && words(payment).title !== "LUNAS", state);
  }
  const settled = new Payment("p");
  settled.answered({ id: "p", state: "settled" });
  assert.deepEqual([settled.isPaid, words(settled).title], [true, "LUNAS"]);
});

test("a word that comes late takes nothing back", () => {
  const payment = pending();
  payment.heard(captured("p"));
  // The answer to the request that began it, or an event that was missed before the hub was asked.
  assert.equal(payment.answered({ id: "p", state: "created" }), false);
  assert.equal(payment.heard(changed("p", "pending", { shown: QR })), false);
  assert.equal(payment.heard(changed("p", "expired")), false);
  assert.equal(payment.isPaid, true);
});

test("what has ended may still be paid, which is for a person", () => {
  for (const end of ["failed", "canceled", "expired"]) {
    const payment = pending();
    payment.heard(changed("p", end, { failure: "DECLINED" }));
    assert.deepEqual([payment.cameToNothing, payment.mayBeReplaced, payment.shown, payment.failure], [true, true, null, "DECLINED"]);
    for (const other of ["failed", "canceled", "expired", "pending"]) payment.heard(changed("p", other));
    assert.equal(payment.state, end, "it ends once");
    payment.heard(changed("p", "paid_late"));
    assert.deepEqual([words(payment).title, payment.isPaid, payment.mayBeReplaced], ["Dibayar terlambat", false, false]);
  }
});

test("what was late is LUNAS when it pays its own sale after all, unless that leaves something due", () => {
  const told = (data) => ({ type: "payment.captured", data: { payment: "p", ...data } });
  const title = (...all) => {
    const payment = new Payment("p", "s");
    payment.heard(changed("p", "paid_late"));
    for (const it of all) payment.heard(it);
    return words(payment).title;
  };
  assert.equal(title(told({ sale: "s", due_minor: 0 }), changed("p", "paid")), "LUNAS");
  assert.equal(title(told({ sale: "s", due_minor: 500 }), changed("p", "paid")), "Dibayar sebagian");
  assert.equal(title(told({ sale: "t", due_minor: 0 }), changed("p", "paid", { accepted_for: "t" })), "Dibayar terlambat");
  assert.equal(title(changed("p", "pending", { shown: QR })), "Dibayar terlambat", "what says less takes nothing back");
});

test("what leaves something due is never LUNAS, whoever says that it is paid", () => {
  const part = () => {
    const payment = new Payment("p", "s");
    payment.heard({ type: "payment.captured", data: { payment: "p", sale: "s", due_minor: 500 } });
    return payment;
  };
  const view = (state, more) => ({ id: "p", state, ...more });
  for (const said of [view("paid"), view("settled"), view("pending", { forced: { by: "s" } })]) {
    const payment = part();
    payment.heard(changed("p", said.state, said));
    payment.answered(said);
    assert.deepEqual([payment.isPaid, words(payment).title], [false, "Dibayar sebagian"]);
    const looked = new Payment("p", "s");
    looked.answered(said, { isPart: true });
    assert.deepEqual([looked.isPaid, words(looked).title], [false, "Dibayar sebagian"]);
    // Or it was taken for all of it, before its sale was looked at.
    const taken = new Payment("p", "s");
    taken.answered(said);
    taken.answered(said, { isPart: true });
    assert.equal(words(taken).title, "Dibayar sebagian");
  }
  const back = part();
  back.heard(changed("p", "reversed"));
  assert.equal(words(back).title, "Ditarik kembali");
  const late = part();
  late.heard(changed("p", "paid_late"));
  assert.equal(words(late).title, "Dibayar terlambat");
});

test("while nobody knows, another way may be begun, and the hub finds out", () => {
  const payment = new Payment("p");
  assert.deepEqual([payment.isOpen, payment.mayBeReplaced], [true, false]);
  payment.answered({ id: "p", state: "unknown" });
  assert.deepEqual([payment.isOpen, payment.mayBeReplaced], [true, true]);
  payment.heard(changed("p", "pending", { shown: QR }));
  assert.deepEqual([payment.mayBeReplaced, payment.shown], [false, QR]);
});

test("what the page took for refused may be known better by the hub", () => {
  const payment = new Payment("p");
  payment.refused("The hub knows nothing of this payment.");
  assert.equal(payment.cameToNothing, true);
  assert.equal(payment.heard(changed("p", "pending", { shown: QR })), true);
  assert.deepEqual([payment.state, payment.failure], ["pending", null]);
  const paid = pending();
  paid.heard(captured("p"));
  assert.equal(paid.refused("no"), false);
  const twice = new Payment("p");
  for (const why of ["sale_not_open", "The hub knows nothing of this payment."]) twice.refused(why);
  assert.equal(twice.failure, "sale_not_open", "what was said first says more");
  assert.equal(twice.heard(changed("p", "pending", { shown: QR })), true);
});

test("cash is there when it is answered", () => {
  const payment = new Payment("p");
  payment.answered({ payment: { payment: "another" }, sale: {} });
  assert.equal(payment.isPaid, false);
  payment.answered({ payment: { payment: "p", method: "cash" }, sale: { state: "completed" } });
  assert.equal(payment.isPaid, true);
});

test("calling off is not the end of it", () => {
  const payment = pending();
  payment.answered({ id: "p", state: "pending", shown: QR, closing: "canceled" });
  assert.equal(words(payment).title, "Membatalkan");
  payment.heard(changed("p", "pending", { shown: QR }));
  assert.equal(words(payment).title, "Membatalkan", "an event does not say it");
  payment.heard(captured("p"));
  assert.equal(words(payment).title, "LUNAS", "the provider had the last word");
});

test("what was forced is paid for the till, whatever its provider says, until the money goes back", () => {
  const forced = { by: "s", at: "2026-11-23T03:01:00Z", reason: "Layar nasabah menunjukkan berhasil" };
  const ways = [
    (payment, view) => payment.answered({ id: "p", ...view }),
    (payment, { state, ...more }) => payment.heard(changed("p", state, more)),
  ];
  for (const told of ways) {
    for (const state of ["created", "unknown", "pending", "review", "failed", "canceled", "expired"]) {
      const payment = new Payment("p");
      told(payment, { state, shown: QR, failure: "never_arrived", closing: "expired", forced });
      assert.deepEqual([payment.isPaid, payment.isOpen, words(payment).title], [true, false, "LUNAS"], state);
      assert.deepEqual([payment.shown, payment.failure, payment.closing], [null, null, false], state);
    }
    const payment = pending();
    for (const state of ["pending", "canceled", "paid", "settled"]) {
      told(payment, { state, shown: QR, forced });
      assert.equal(payment.isPaid, true, state);
    }
    for (const state of ["partially_refunded", "reversed"]) {
      told(payment, { state, forced });
      assert.deepEqual([payment.state, payment.isPaid], [state, false]);
    }
    // One that is not forced says so as well.
    const other = new Payment("p");
    told(other, { state: "pending", shown: QR, forced: null });
    assert.equal(other.isPaid, false);
  }
});

test("when its time is over nobody is to pay it, and nobody knows yet", () => {
  const payment = pending();
  const end = payment.expiresAt;
  assert.deepEqual([payment.isOver(end - 1), words(payment, end - 1).title], [false, "Menunggu pembayaran"]);
  assert.deepEqual([payment.isOver(end), words(payment, end).title], [true, "Waktu habis, menunggu kepastian"]);
  payment.heard(captured("p"));
  assert.deepEqual([payment.isOver(end), words(payment, end).title], [false, "LUNAS"]);
  assert.equal(new Payment("p").isOver(end), false, "its time is not known");
});

test("a cashier is told when the money of an earlier payment goes, or comes too late, and of nothing else", () => {
  const of = (state) => afterwards(changed("old", state, { amount_minor: 48_500, currency: "IDR" }));
  for (const state of ["reversed", "charged_back", "paid_late"]) assert.match(of(state), /Rp\s48\.500 .+ Panggil atasan\.$/);
  for (const state of ["pending", "paid", "settled", "expired", "refunded", "teleported"]) assert.equal(of(state), undefined);
  assert.equal(afterwards(captured("old")), undefined);
});

test("a state that is new to the page changes nothing", () => {
  const payment = pending();
  assert.equal(payment.heard(changed("p", "teleported")), false);
  assert.equal(payment.state, "pending");
});

test("counts down by the minute and second", () => {
  const end = pending().expiresAt;
  assert.deepEqual([899_001, 60_000, 59_999, 500, 0, -5].map((left) => countdown(end, end - left)), ["14:59", "1:00", "0:59", "0:00", "", ""]);
  assert.equal(countdown(null, 0), "");
});

test("reads numbers out in groups", () => {
  assert.deepEqual(["8808123456789012", "12345", "1234", ""].map(grouped), ["8808 1234 5678 9012", "1234 5", "1234", ""]);
});

test("ids are of version 7, grow with time, and are never the same", () => {
  const at = Date.parse("2026-11-23T03:00:00Z");
  const ids = [newId(at), newId(at + 1), newId(at + 86_400_000)];
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual([...ids].sort(), ids);
  assert.equal(Number.parseInt(ids[0].replaceAll("-", "").slice(0, 12), 16), at);
  assert.notEqual(newId(at), newId(at));
});
