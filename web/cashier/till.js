// A till: the basket, the sale that it was rung up as, and the payment on the screen. It asks the hub, hears it, and draws nothing.

import { Refused } from "../live/hub.js";
import { Basket, whyNotSold } from "./basket.js";
import { newId } from "./hub.js";
import { Payment, afterwards, saysPaid } from "./payment.js";
import { CASH } from "./ways.js";

// What a reload must not lose.
const BASKET_KEY = "tillwire.cashier.basket";
const SALE_KEY = "tillwire.cashier.sale";
const WARNINGS_KEY = "tillwire.cashier.warnings";
const UNTOLD_KEY = "tillwire.cashier.untold";
const BEHIND_KEY = "tillwire.cashier.behind";
/** How many payments of earlier customers are warned of at once. */
const WARNINGS_MAX = 100;
/** How many sales that were let go are watched at once. */
const BEHIND_MAX = 100;

const UNANSWERED = "Hub tidak menjawab; hasilnya sedang dicari tahu.";
const NOT_CALLED_OFF = "Tidak dapat dibatalkan.";
/** Why the hub asks for no payment. */
const NOT_ASKED = {
  nothing_due: "Pembayaran lain untuk penjualan ini masih berjalan. Tunggu sebentar, lalu coba lagi.",
  too_many_attempts: "Terlalu banyak pembayaran dicoba. Mulai penjualan baru.",
  too_many_payments: "Terlalu banyak pembayaran dicoba. Mulai penjualan baru.",
};
/** What is said while it is not known how a payment ends. */
const BEFORE_ITS_END = new Set([UNANSWERED, NOT_CALLED_OFF]);

const NOT_VOIDED = "belum batal";
const STILL_OPEN = "masih terbuka";
/** Whether a warning is but of a sale that ends by itself, and of no money. */
const isOfNoMoney = (text) => [NOT_VOIDED, STILL_OPEN].some((words) => text.includes(words));

/** Why a sale is voided that nobody has paid. */
const LEFT = "Penjualan baru di kasir";

const isNotFound = (error) => error instanceof Refused && error.code === "not_found";

export class Till {
  basket = new Basket();
  /** What was rung up: { id, totalMinor, currency, number, state }. None while the basket is still being filled. */
  sale = null;
  /** The payment on the screen, and what the button was called. */
  payment = null;
  wayLabel = "";
  /** What went wrong, in our words; and in the hub's, which are English. */
  note = { text: "", why: "" };
  /** What became of earlier customers' payments and sales, until somebody says that they have seen it: texts, by which it was. */
  warnings = new Map();
  /** How many of them there was no room for. */
  untold = 0;
  /**
   * Sales that were let go while a payment for them could still come, and such as were found open: { number, isElsewhere }, by the sale.
   */
  #behind = new Map();
  /** Those of them that the hub was asked about in vain. */
  #unanswered = new Set();
  /** Whether that is just being done again: one at a time. */
  #isLookingBehind = false;
  /** The sale that the hub was asked to open, while it has not answered: it is asked for no other. */
  #asked = null;
  /** What the hub is just being asked for and must not be asked for twice, and whether it is known otherwise what came of it. */
  #request = null;
  /** The payment that is just being asked after. */
  #lookingAt = null;
  /** The payment that came to nothing, and after which the sale was looked at. */
  #lookedFor = null;
  /** Whether another payment of its sale was heard of, and nobody has looked yet what it has made of it. */
  #mayBeOver = false;
  /** The payment that was said to be paid. */
  #told = null;
  /** Whether another till is on the screen by now, and has what is kept. */
  #left = false;
  #tell;

  /** Tells `changed()` when something is to be drawn, `paid()` once a payment, and `sold()` when the shelf may be another. */
  constructor({ hub, outlet, register, tell }) {
    Object.assign(this, { hub, outlet, register });
    this.#tell = tell;
    this.#recall();
  }

  /** Whether the hub is just being asked for something. A request that hangs holds up nobody once it is known what came of it. */
  get busy() {
    return this.#request !== null && !this.#request.isSettled();
  }

  /** The request is over, unless another has taken its place. */
  #isOver(request) {
    if (this.#request === request) this.#request = null;
  }

  /** Where the cashier is. */
  get step() {
    const { sale, payment } = this;
    if (!sale) return "ringing";
    if (payment?.isPaid) return "paid";
    const isOver = sale.state && sale.state !== "open";
    // The rest may have come by another payment.
    if (isOver && payment?.state === "part") return "over";
    if (payment && !payment.isOpen && !payment.cameToNothing) return "late";
    if (isOver) return "over";
    return payment?.cameToNothing ? "failed" : "waiting";
  }

  /** Whether another way to pay may be begun. */
  get mayPay() {
    return !this.sale || (this.step !== "over" && Boolean(this.payment?.mayBeReplaced));
  }

  get mayCallOff() {
    return this.step === "waiting" && !this.payment?.closing;
  }

  get mayLeave() {
    return this.sale !== null && (this.step !== "waiting" || Boolean(this.payment?.mayBeReplaced));
  }

  /** Whether nothing that is told would bring it on: whether the hub has the payment, or how the sale stands. */
  get isUnsure() {
    const { payment, step } = this;
    if (step === "failed") return this.#mayBeOver || this.#lookedFor !== payment;
    if (this.note.text === UNANSWERED) return true;
    // What nobody can pay is called off, which no event says either.
    if (step === "waiting" && payment.state === "pending" && !payment.shown && !payment.closing) return true;
    // The rest of a part may be paid at another register, which this one does not hear.
    return this.#mayBeOver || payment?.state === "created" || (step === "late" && payment.state === "part");
  }

  // --- The basket ----------------------------------------------------------------------------------------------------

  add(product) {
    if (this.sale || this.busy) return;
    this.#alter();
    this.#say(this.basket.add(product) ? "" : "Stok barang ini tidak cukup.");
    this.#tell.changed();
  }

  remove(variant) {
    if (this.sale || this.busy) return;
    this.#alter();
    this.basket.remove(variant);
    this.#tell.changed();
  }

  clear() {
    if (this.sale || this.busy) return;
    this.#alter();
    this.basket.clear();
    this.#say();
    this.#tell.changed();
  }

  /** The shelf was read again. What the hub was asked for it was asked for as it was then. */
  renew(products) {
    if (!this.sale) this.basket.renew(products);
  }

  /** The basket is to be another. What was asked for and not answered may be there, and keep its goods back. */
  #alter() {
    if (!this.#asked) return;
    this.#void(this.#asked, "Keranjang diubah di kasir");
    this.#answered();
  }

  /** Gives back its goods, if the hub lets it; if not, it ends by itself. */
  #void({ id }, reason) {
    this.hub.post(`/v1/sales/${id}/void`, { reason }).catch(() => {});
  }

  /**
   * The same for a sale whose payment has been asked for. The hub does not let it while that may still be paid, which `ifNot` tells the
   * cashier.
   */
  async #voidBehind(id, ifNot = "") {
    try {
      await this.hub.post(`/v1/sales/${id}/void`, { reason: LEFT });
      this.#isSettled(id);
    } catch (error) {
      // It may be paid, or voided already.
      if (error.code !== "payment_under_way") this.#unanswered.add(id);
      else if (ifNot && this.#behind.has(id)) this.#warn(id, ifNot);
    }
  }

  #isSettled(id) {
    this.#behind.delete(id);
    this.#keepBehind();
    this.warnings.delete(id);
    this.#keepWarnings();
  }

  #keepBehind() {
    for (const oldest of [...this.#behind.keys()].slice(0, -BEHIND_MAX)) this.#behind.delete(oldest);
    this.#keep(BEHIND_KEY, [...this.#behind]);
  }

  /** Rings up the basket. The id is the key as well: however often it is sent, before and after a reload, it is one sale. */
  async #ringUp() {
    const asked = (this.#asked ??= this.basket.sale(newId(), this.register));
    this.#keep(BASKET_KEY, { asked, lines: this.basket.lines() });
    let opened;
    try {
      opened = await this.hub.post(`/v1/outlets/${this.outlet}/sales`, asked, asked.id);
    } catch (error) {
      if (error instanceof Refused) this.#answered();
      throw error;
    }
    this.#answered();
    // What the shelf says until it is read again.
    for (const { product, quantity } of this.basket.lines()) product.left -= quantity;
    const { id, total_minor: totalMinor, currency, number, state } = opened;
    return { id, totalMinor, currency, number, state };
  }

  #answered() {
    this.#asked = null;
    this.#forget(BASKET_KEY);
  }

  // --- The payment ---------------------------------------------------------------------------------------------------

  /** Asks for a payment; the first one of a basket rings it up before. */
  async pay(way) {
    if (this.busy || !this.mayPay) return;
    this.#say();
    const request = { isSettled: () => false };
    this.#request = request;
    this.#tell.changed();
    try {
      const sale = this.sale ?? (await this.#ringUp());
      // It was not there to be voided when the till was left.
      if (this.#left) return this.#void(sale, LEFT);
      this.sale = sale;
    } catch (error) {
      this.#isOver(request);
      const why = whyNotSold(this.basket.lines(), error.errors ?? []);
      this.#say(...(why ? [why] : ["Penjualan ini tidak dapat dibuka.", error.message]));
      this.#tell.changed();
      return this.#tell.sold();
    }
    // Known before it is asked for, and kept: whatever is lost on the way, this is the one on the screen.
    const own = new Payment(newId(), this.sale.id);
    request.isSettled = () => own.isKnown;
    [this.payment, this.wayLabel] = [own, way.label];
    this.#remember();
    this.#tell.changed();
    try {
      const cash = way === CASH && { amount_minor: this.sale.totalMinor };
      const view = await this.hub.post(`/v1/sales/${this.sale.id}/payments`, { id: own.id, ...way.body, ...cash });
      if (!saysPaid(view)) own.answered(view); // Else its sale is looked at, which knows what is still due.
    } catch (error) {
      // What has been heard of it meanwhile counts for more.
      if (!own.isKnown) {
        if (error instanceof Refused) {
          own.refused(error.message);
          this.#say(NOT_ASKED[error.code]);
        }
        else this.#say(UNANSWERED, error.message);
      }
    }
    this.#isOver(request);
    await this.#came(own);
  }

  async callOff() {
    const own = this.payment;
    if (this.busy || !own) return;
    const request = { isSettled: () => own.closing || !own.isOpen };
    this.#request = request;
    this.#tell.changed();
    let isUnsure = false;
    try {
      const view = await this.hub.post(`/v1/payments/${own.id}/cancel`, {});
      isUnsure = saysPaid(view);
      if (!isUnsure) own.answered(view);
    } catch (error) {
      // Refused, it stands otherwise than is known here. Not answered, it may be called off all the same.
      isUnsure = error instanceof Refused;
      if (!isNotFound(error) && own === this.payment) this.#say(isUnsure ? NOT_CALLED_OFF : UNANSWERED, error.message);
    }
    this.#isOver(request);
    await (isUnsure ? this.look({ again: true }) : this.#came(own));
  }

  /** Clears the screen for the next customer. */
  next() {
    if (this.busy || !this.mayLeave) return;
    this.#letGo();
    this.#tell.changed();
    this.#tell.sold();
  }

  /**
   * Another till takes its place on the screen. A payment that a customer may just be making is not called off for that: it is kept, and
   * found again when this till comes back.
   */
  leave() {
    if (this.step !== "waiting") this.#letGo();
    this.#left = true;
  }

  /** Lets the sale go. One that nobody has paid is voided. */
  #letGo() {
    this.#alter();
    const { sale, step, payment } = this;
    [this.sale, this.payment, this.wayLabel, this.#mayBeOver, this.#request] = [null, null, "", false, null];
    this.basket.clear();
    this.#forget(SALE_KEY);
    this.#say();
    if (!sale || step === "over" || !payment?.mayBeReplaced) return;
    this.#behind.set(sale.id, { number: sale.number });
    this.#keepBehind();
    const ends = "Ia berakhir sendiri, dan barangnya lalu kembali ke stok.";
    this.#voidBehind(sale.id, `Struk ${sale.number} ${NOT_VOIDED}, karena penyedia belum menjawab. ${ends}`);
  }

  // --- What is known of it -------------------------------------------------------------------------------------------

  hear(envelope) {
    const { type, data } = envelope;
    const own = this.payment;
    if (own?.heard(envelope)) return this.#came(own);
    if (own?.id === data.payment) return;
    // An earlier attempt at the same sale, of which nobody knew: it is not the one on the screen.
    if (own && type === "payment.captured" && data.sale === this.sale.id && !own.isPaid) {
      this.#say("Pembayaran lain untuk penjualan ini sudah masuk. Periksa dulu sebelum meminta lagi.");
      this.#mayBeOver = true;
      this.#tell.changed();
      return this.look({ again: true });
    }
    const text = afterwards(envelope);
    if (text) this.#warn(data.payment, text);
    if (this.#behind.has(data.sale)) return this.#lookAt(data.sale);
  }

  /**
   * Finds this register's open sales of which this tab knows nothing: one may have been left in a tab that was closed, or be on the
   * screen of another. So they are watched, and never voided. What is younger than the question is of no interest: it is rung up here;
   * nor is what is paid in part, which the manager knows of.
   */
  async lookElsewhere() {
    const [now, own] = [newId(), new Set([this.sale?.id, this.#asked?.id, ...this.#behind.keys()])];
    const path = `/v1/outlets/${this.outlet}/sales?state=open&limit=200`;
    const { items } = await this.hub.get(path).catch(() => ({ items: [] }));
    for (const { id, register, number, paid_minor } of items) {
      if (register !== this.register || own.has(id) || id > now || paid_minor > 0) continue;
      this.#behind.set(id, { number, isElsewhere: true });
      this.#warn(id, `Struk ${number} ${STILL_OPEN}; mungkin ditinggalkan di tab lain.`);
    }
    this.#keepBehind();
  }

  /** What became of sales that were let go while nobody listened. */
  async lookBehind() {
    for (const id of [...this.#behind.keys()]) await this.#lookAt(id);
  }

  /** The same for those of which something was told, and the hub did not answer what. */
  async lookBehindAgain() {
    if (this.#isLookingBehind) return;
    this.#isLookingBehind = true;
    try {
      for (const id of [...this.#unanswered]) await this.#lookAt(id);
    } finally {
      this.#isLookingBehind = false;
    }
  }

  /** How a sale stands that was let go: whether it was paid after all, which nobody at the till would know, or can be voided now. */
  async #lookAt(id) {
    this.#unanswered.delete(id);
    if (!this.#behind.has(id)) return;
    try {
      const found = await this.#find(`/v1/sales/${id}`);
      // Another answer may have said it, and somebody have read it.
      if (!this.#behind.has(id)) return;
      const { number, isElsewhere } = this.#behind.get(id);
      if (found?.state === "open" && isElsewhere) return;
      const isPaid = found?.tenders.length > 0;
      if (found?.state === "open" && !isPaid) return this.#voidBehind(id);
      this.#isSettled(id);
      if (!isPaid) return;
      const elsewhere = `Struk ${number} dari tab lain menerima pembayaran. Periksa apakah barangnya sudah diserahkan.`;
      this.#warn(id, isElsewhere ? elsewhere : `Struk ${number} ternyata dibayar setelah ditinggalkan. Panggil atasan.`);
    } catch {
      this.#unanswered.add(id);
    }
  }

  /**
   * Asks how the payment stands, whatever is known of it: what was said while nobody listened may not be said again. `again` asks even
   * if it is just being asked for. What the hub does not know may still be on its way there.
   */
  async look({ again = false } = {}) {
    const { payment: own, sale, busy: isOnItsWay } = this;
    if (!own || (this.#lookingAt === own && !again)) return;
    this.#lookingAt = own;
    try {
      const view = await this.#find(`/v1/payments/${own.id}`);
      const isPaid = view !== null && saysPaid(view);
      if (view && !isPaid) own.answered(view);
      if (!view || isPaid || this.#mayBeOver || !own.isOpen) await this.#lookAtSale(own, sale, { view, isOnItsWay });
      if (own === this.payment && this.note.text === UNANSWERED) this.#say();
    } catch {
      // Not answered: what nobody tells us is asked again.
    }
    if (this.#lookingAt === own) this.#lookingAt = null;
    this.#changed(own);
  }

  /**
   * The sale knows what was taken by hand, and what never came to the hub; whether another payment was faster; and whether what is paid
   * is all of it. So it is read after the payment.
   */
  async #lookAtSale(own, sale, { view, isOnItsWay }) {
    const wasInDoubt = this.#mayBeOver;
    // The hub may be another than it was when the page was loaded.
    const found = (await this.#find(`/v1/sales/${sale.id}`)) ?? { state: "voided", tenders: [] };
    const isPart = found.state !== "completed";
    const taken = found.tenders.find((tender) => tender.payment === own.id);
    if (view) own.answered(view, { isPart });
    if (taken && (!view || own.isOpen)) own.answered({ payment: taken }, { isPart });
    else if (!view && !isOnItsWay) own.refused("The hub knows nothing of this payment.");
    if (own.cameToNothing) this.#lookedFor = own;
    // It is open no more once it was not: this may be an older answer.
    if (!sale.state || sale.state === "open") sale.state = found.state;
    if (own !== this.payment) return;
    if (wasInDoubt) this.#mayBeOver = false; // Else it was heard of only meanwhile.
    this.#remember();
    if (this.step === "over") this.#say();
  }

  /** What the hub has there, or nothing. */
  async #find(path) {
    try {
      return await this.hub.look(path);
    } catch (error) {
      if (!isNotFound(error)) throw error;
      return null;
    }
  }

  /** Something is known of a payment. If it is the one on the screen, it is shown; and what nobody will tell of it is asked. */
  async #came(own) {
    this.#changed(own);
    // What is being asked already may be answered as it was before.
    if (own === this.payment && this.isUnsure) await this.look({ again: true });
  }

  #changed(own) {
    if (own !== this.payment || this.#left) return;
    if (BEFORE_ITS_END.has(this.note.text) && (own.closing || !own.isOpen)) this.#say();
    if (own.isPaid && this.#told !== own) {
      this.#told = own;
      this.#tell.paid();
    }
    this.#tell.changed();
  }

  #warn(payment, text) {
    this.warnings.set(payment, text);
    if (this.warnings.size > WARNINGS_MAX) {
      // The oldest that can be spared.
      const [spared] = [...this.warnings].find(([, it]) => isOfNoMoney(it)) ?? [...this.warnings][0];
      this.warnings.delete(spared);
      this.untold += 1;
    }
    this.#keepWarnings();
  }

  /** Somebody has read them. */
  dismiss() {
    this.warnings.clear();
    this.untold = 0;
    this.#keepWarnings();
  }

  #keepWarnings() {
    this.#keep(WARNINGS_KEY, [...this.warnings]);
    this.#keep(UNTOLD_KEY, this.untold);
    this.#tell.changed();
  }

  #say(text = "", why = "") {
    this.note = { text, why };
  }

  // --- What a reload must not lose, nor another till on the screen ---------------------------------------------------

  #remember() {
    const { sale, wayLabel, payment, basket } = this;
    this.#keep(SALE_KEY, { sale, wayLabel, payment: payment.id, lines: basket.lines() });
  }

  /** What was on the screen when it was this register's the last time. */
  #recall() {
    this.#behind = new Map(this.#kept(BEHIND_KEY));
    this.warnings = new Map(this.#kept(WARNINGS_KEY));
    this.untold = this.#kept(UNTOLD_KEY) ?? 0;
    const sold = this.#kept(SALE_KEY);
    if (sold) {
      [this.sale, this.wayLabel, this.payment] = [sold.sale, sold.wayLabel, new Payment(sold.payment, sold.sale.id)];
      return this.basket.restore(sold.lines ?? []);
    }
    const asked = this.#kept(BASKET_KEY);
    if (!asked) return;
    this.#asked = asked.asked;
    this.basket.restore(asked.lines);
  }

  #kept(key) {
    return JSON.parse(sessionStorage.getItem(this.#keyOf(key)));
  }

  /** Once it has left, what is kept of the register is another till's to change. */
  #keep(key, value) {
    if (!this.#left) sessionStorage.setItem(this.#keyOf(key), JSON.stringify(value));
  }

  #forget(key) {
    if (!this.#left) sessionStorage.removeItem(this.#keyOf(key));
  }

  #keyOf(key) {
    return `${key}.${this.register}`;
  }
}
