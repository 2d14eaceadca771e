// The payment on the screen: what is known of it, and what that means to a cashier.

import * as format from "../live/format.js";

// How much is known. What says less than we know came late, by the other way, and changes nothing.
const RANKS = {
  created: 0,
  unknown: 1,
  pending: 2,
  review: 3,
  authorized: 3,
  failed: 4,
  canceled: 4,
  expired: 4,
  paid: 5,
  settled: 5,
  // Above paid, which is said of it as well, by whoever does not look at its sale.
  part: 6,
  paid_late: 7,
  partially_refunded: 8,
  refunded: 9,
  reversed: 9,
  charged_back: 9,
};
const HELD_BY_PROVIDER = new Set(["review", "authorized"]);
const PAID = new Set(["paid", "settled"]);

/** Whether a view says that it is paid: what of its sale is left to pay then, it does not say. */
export const saysPaid = ({ state, forced }) => PAID.has(state) || Boolean(forced);

/** One payment, bound to its id and its sale from before it is asked for: what is said of any other is not for this screen. */
export class Payment {
  state = "created";
  /** What the customer is shown. */
  shown = null;
  /** When it ends by itself, in milliseconds by the hub's clock. */
  expiresAt = null;
  /** Why it failed. */
  failure = null;
  /** That it is being called off: the provider has the last word. */
  closing = false;
  /** Whether anybody has said anything of it. */
  isKnown = false;
  /** That it is our own word that it failed, and not the hub's, who may know better. */
  #refused = false;

  constructor(id, sale = null) {
    [this.id, this.sale] = [id, sale];
  }

  /** Takes in what REST answered, and whether its sale is to be paid further if it is paid. Says whether anything changed. */
  answered(view, { isPart = false } = {}) {
    // One that was taken by hand comes with its sale, and is there.
    const { id, ...said } = view.payment ? { id: view.payment.payment, state: "paid" } : view;
    return id === this.id && this.#comes({ ...said, isPart });
  }

  /** Takes in an event. Says whether anything changed. */
  heard({ type, data }) {
    if (data.payment !== this.id) return false;
    if (type === "payment.captured") {
      // Late money may pay another sale, and a part leaves something due: neither is for this screen to call paid.
      if (this.sale && data.sale !== this.sale) return this.#comes({ state: "paid_late" });
      return this.#comes({ state: "paid", isPart: data.due_minor > 0 });
    }
    return type === "payment.changed" && this.#comes(data);
  }

  /** The hub would not have it, or does not know it: which it says again, and less well, whenever it is asked. */
  refused(why) {
    if (!this.isOpen) return false;
    this.#refused = this.#comes({ state: "failed", failure: why });
    return this.#refused;
  }

  #comes({ state, forced, accepted_for, isPart, ...more }) {
    // It was late, and a person has let it pay another sale.
    if (accepted_for && PAID.has(state)) return this.#comes({ ...more, state: "paid_late" });
    // Somebody has taken it for paid, and its sale is: whether its provider comes to say so is no matter of the till's.
    if (forced && RANKS[state] <= RANKS.failed) return this.#comes({ state: "paid", isPart });
    if (isPart && PAID.has(state)) return this.#comes({ ...more, state: "part" });
    const { shown, expires_at, failure, closing } = more;
    // It was late, and a person has let it pay its own sale after all.
    const isLetIn = this.state === "paid_late" && (PAID.has(state) || state === "part");
    const [now, then] = [RANKS[state], this.#refused || isLetIn ? -1 : RANKS[this.state]];
    // A word that is new to us says nothing that we could show.
    if (now === undefined || now < then) return false;
    if (now === then && state !== this.state && !HELD_BY_PROVIDER.has(state)) return false;
    const before = JSON.stringify(this);
    [this.state, this.#refused, this.isKnown] = [state, false, true];
    this.shown = shown ?? (this.isOpen ? this.shown : null);
    this.expiresAt = expires_at ? Date.parse(expires_at) : this.expiresAt;
    this.failure = failure ?? (this.cameToNothing ? this.failure : null);
    // Events do not say it, and it does not end but with the payment.
    this.closing = this.isOpen && (Boolean(closing) || this.closing);
    return JSON.stringify(this) !== before;
  }

  /** Whether its time is over, by the hub's clock, and nobody has said yet what became of it. */
  isOver(now) {
    return this.state === "pending" && this.expiresAt !== null && now >= this.expiresAt;
  }

  get isPaid() {
    return PAID.has(this.state);
  }

  /** Whether the customer can still pay, or may have. */
  get isOpen() {
    return RANKS[this.state] < RANKS.failed;
  }

  /** Whether it came to nothing: another can be asked for. */
  get cameToNothing() {
    return RANKS[this.state] === RANKS.failed;
  }

  /**
   * Whether another way may be begun beside it: nobody knows what became of this one, or will before its provider has answered, and
   * no customer waits for that.
   */
  get mayBeReplaced() {
    return this.cameToNothing || this.state === "unknown" || this.closing;
  }
}

const SHOWN = {
  qr: "Minta pelanggan memindai kode ini.",
  virtual_account: "Minta pelanggan mentransfer tepat sejumlah ini.",
  bill: "Minta pelanggan membayar tagihan ini.",
  redirect: "Minta pelanggan membuka halaman penyedia.",
};

const STATES = {
  created: ["Menunggu penyedia", "Permintaan sedang dikirim."],
  unknown: [
    "Penyedia belum menjawab",
    "Hasilnya sedang dicari tahu, dan tidak diminta dua kali. Pelanggan tidak perlu menunggu: pilih cara lain.",
  ],
  review: ["Sedang diperiksa", "Penyedia memeriksa pembayaran ini. Barang belum boleh diserahkan."],
  authorized: ["Dana ditahan", "Dana pelanggan ditahan dan belum diambil. Barang belum boleh diserahkan."],
  paid: ["LUNAS", ""],
  settled: ["LUNAS", ""],
  part: ["Dibayar sebagian", "Penjualan ini belum lunas. Jangan serahkan barang; panggil atasan."],
  failed: ["Gagal", "Pembayaran tidak berhasil. Pilih cara lain."],
  canceled: ["Dibatalkan", "Pembayaran ini dibatalkan. Pilih cara lain, atau mulai penjualan baru."],
  expired: ["Waktu habis", "Pelanggan tidak membayar pada waktunya. Pilih cara lain, atau mulai penjualan baru."],
  paid_late: [
    "Dibayar terlambat",
    "Uang masuk setelah pembayaran ini berakhir. Jangan serahkan barang; minta atasan memutuskan uangnya.",
  ],
  partially_refunded: ["Dikembalikan sebagian", "Sebagian uang sudah kembali ke pelanggan."],
  refunded: ["Dikembalikan", "Uang sudah kembali ke pelanggan."],
  reversed: ["Ditarik kembali", "Bank menarik kembali uang ini. Jangan serahkan barang; panggil atasan."],
  charged_back: ["Ditarik kembali", "Bank pelanggan menarik kembali uang ini. Panggil atasan."],
};

/** What is said of one of which nobody has said anything: it may be there, and even be paid. */
const CHECKING = ["Memeriksa pembayaran…", ""];

const OTHERWISE = "Pelanggan tidak perlu menunggu: pilih cara lain, atau mulai penjualan baru.";

/** What the screen says of a payment, at a time by the hub's clock: { title, text }. */
export function words(payment, now = 0) {
  if (payment.isOver(now)) {
    const text = "Jangan terima pembayaran dengan kode ini lagi: hasilnya sedang dicari tahu.";
    return { title: "Waktu habis, menunggu kepastian", text: payment.closing ? `${text} ${OTHERWISE}` : text };
  }
  if (payment.closing) {
    return { title: "Membatalkan", text: `Penyedia diminta membatalkan, dan dapat menjawab bahwa sudah dibayar. ${OTHERWISE}` };
  }
  if (payment.state === "pending") return { title: "Menunggu pembayaran", text: SHOWN[payment.shown?.type] ?? "" };
  const [title, text] = payment.isKnown ? STATES[payment.state] : CHECKING;
  return { title, text };
}

// What may become of a payment when the next customer is at the counter, and what a cashier is told then.
const AFTERWARDS = {
  paid_late: "masuk terlambat, setelah berakhir.",
  reversed: "ditarik kembali oleh bank.",
  charged_back: "ditarik kembali oleh bank pelanggan.",
};

/** What a cashier has to know of a payment that is no longer on the screen; nothing of most. */
export function afterwards({ type, data }) {
  const what = type === "payment.changed" ? AFTERWARDS[data.state] : undefined;
  return what && `Pembayaran ${format.amount(data.amount_minor, data.currency)} sebelumnya ${what} Panggil atasan.`;
}

/** How long it is still good for, as `14:59`: whole seconds that are left. Nothing if that is not known, or over. */
export function countdown(expiresAt, now) {
  if (expiresAt === null || now >= expiresAt) return "";
  const seconds = Math.floor((expiresAt - now) / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

/** A virtual account's number in groups of four, as people read it to one another. */
export function grouped(number) {
  return number.replaceAll(/(.{4})(?=.)/g, "$1 ");
}
