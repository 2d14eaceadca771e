// The counter: how a till stands, on the page. The shelf, the basket, the payment and the buttons, each as the till has it.

import * as format from "../live/format.js";
import { put, show } from "./list.js";
import { countdown, grouped, words } from "./payment.js";
import { carries } from "./ways.js";

const $ = (id) => document.getElementById(id);
const template = (id) => $(id).content.firstElementChild.cloneNode(true);

// What has become of a sale that cannot be paid any more.
const OVER = {
  completed: { title: "Penjualan ini sudah lunas", text: "Pembayaran lain untuk penjualan ini sudah masuk. Jangan minta lagi." },
  voided: { title: "Penjualan dibatalkan", text: "Mulai penjualan baru." },
  expired: { title: "Penjualan berakhir", text: "Tidak dibayar pada waktunya. Mulai penjualan baru." },
};

/** What is said until the hub has answered. */
const SENDING = { title: "Sedang dikirim…", text: "" };

export class Counter {
  #till;
  #hub;
  #does;
  #products = [];
  /** Whether the shelf was read. */
  #isStocked = false;
  #ways = [];
  /** How it stands with the connection, while that is broken. */
  #away = "";
  /** The address of the code's picture, for which payment it is, and whether it could not be had. */
  #picture = { of: null, url: null, failed: false };
  /** What was brought into view: once, so that nobody's scrolling is undone. */
  #seen = "";

  /** `does` is what the buttons do: `add(product)`, `remove(variant)`, `pay(way)`. */
  constructor({ till, hub, does }) {
    [this.#till, this.#hub, this.#does] = [till, hub, does];
  }

  /** Another takes its place, whose payments are others: nothing of this one's is left for anybody to pay. */
  close() {
    this.#drawPicture(null);
    $("to-counter").hidden = true;
  }

  stock(products, ways = this.#ways) {
    [this.#products, this.#ways, this.#isStocked] = [products, ways, true];
    this.draw();
  }

  /** What is said beside the payment of a broken connection; nothing while all is well. */
  away(text) {
    this.#away = text;
    this.#drawPayment();
  }

  draw() {
    const [till, focused] = [this.#till, document.activeElement];
    document.body.dataset.step = till.step;
    const currency = till.sale?.currency ?? this.#products[0]?.currency ?? "IDR";
    const totalMinor = till.sale?.totalMinor ?? till.basket.totalMinor();
    this.#drawShelf();
    this.#drawLines(currency);
    for (const id of ["sum", "so-far"]) put($(id), format.amount(totalMinor, currency));
    $("to-counter").hidden = till.step !== "ringing" || totalMinor === 0;
    this.#drawPayment();
    this.#drawWays(totalMinor);
    this.#drawNotes();
    $("call-off").hidden = !till.mayCallOff;
    $("clear").hidden = till.sale !== null || till.basket.lines().length === 0;
    $("next").hidden = !till.mayLeave;
    for (const id of ["call-off", "clear", "next"]) $(id).setAttribute("aria-disabled", String(till.busy));
    // Where the keyboard was is gone: it goes on from here, and not from the top; and not on a button, which might be pressed twice.
    if (!focused || (focused.isConnected && !focused.closest("[hidden]"))) return;
    // The next customer's basket is begun at the shelf, which on a phone is above it.
    const isBegun = till.step !== "ringing" || till.basket.lines().length > 0;
    $(isBegun ? "counter-title" : "shop-title").focus();
  }

  /** Once a second: the time that is left. */
  tick() {
    this.#drawPayment();
  }

  /** Every few seconds: a picture that could not be had is asked for again. */
  retry() {
    if (!this.#picture.failed) return;
    this.#picture = { of: null, url: null, failed: false };
    this.#drawPayment();
  }

  #now() {
    return Date.now() + this.#hub.clock;
  }

  #drawShelf() {
    const { sale, busy, basket } = this.#till;
    const taken = new Map(basket.lines().map(({ product, quantity }) => [product.variant, quantity]));
    const shelf = this.#products.filter((product) => product.left > 0);
    $("no-products").hidden = shelf.length > 0 || !this.#isStocked;
    show($("shelf"), shelf, {
      key: ({ variant }) => variant,
      make: (row) => {
        const item = template("product-template");
        item.querySelector("button").addEventListener("click", () => this.#does.add(row.item));
        return item;
      },
      update(item, product) {
        put(item.querySelector(".name"), product.name);
        put(item.querySelector(".price"), format.amount(product.priceMinor, product.currency));
        put(item.querySelector(".left"), `sisa ${format.count(product.left)}`);
        const quantity = taken.get(product.variant);
        put(item.querySelector(".taken"), quantity ? `${quantity} × di keranjang` : "");
        item.querySelector("button").setAttribute("aria-disabled", String(sale !== null || busy));
      },
    });
  }

  #drawLines(currency) {
    const { sale, basket } = this.#till;
    const lines = basket.lines();
    $("no-lines").hidden = lines.length > 0 || sale !== null;
    put($("counter-title"), sale ? `Struk ${sale.number}` : "Keranjang");
    show($("lines"), lines, {
      key: ({ product }) => product.variant,
      make: (row) => {
        const item = template("line-template");
        item.querySelector(".less").addEventListener("click", () => this.#does.remove(row.item.product.variant));
        return item;
      },
      update(item, { product, quantity }) {
        put(item.querySelector(".quantity"), `${quantity} ×`);
        put(item.querySelector(".name"), product.name);
        put(item.querySelector(".price"), format.amount(product.priceMinor * quantity, currency));
        const less = item.querySelector(".less");
        less.hidden = sale !== null;
        less.setAttribute("aria-label", `Kurangi ${product.name}`);
      },
    });
  }

  #drawWays(totalMinor) {
    const { busy, mayPay } = this.#till;
    $("ways").hidden = !mayPay;
    const isOff = (way) => busy || totalMinor === 0 || !carries(way, totalMinor);
    show($("ways"), this.#ways, {
      key: ({ label }) => label,
      make: (row) => {
        const button = document.createElement("button");
        button.type = "button";
        button.addEventListener("click", () => {
          if (button.getAttribute("aria-disabled") !== "true") this.#does.pay(row.item);
        });
        return button;
      },
      update(button, way) {
        put(button, way.label);
        button.setAttribute("aria-disabled", String(isOff(way)));
      },
    });
  }

  #drawNotes() {
    const { note, warnings, untold } = this.#till;
    $("note").hidden = note.text === "";
    put($("note-text"), note.text);
    put($("note-why"), note.why);
    $("earlier").hidden = warnings.size === 0;
    show($("warnings"), [...warnings].reverse(), {
      key: ([payment]) => payment,
      make: () => document.createElement("li"),
      update: (item, [, text]) => put(item, text),
    });
    $("untold").hidden = untold === 0;
    put($("untold"), `dan ${format.count(untold)} lainnya`);
  }

  #drawPayment() {
    const { payment, step, wayLabel, busy } = this.#till;
    $("payment").hidden = !payment && !busy;
    const now = this.#now();
    const { title, text } = this.#words(now);
    put($("way"), wayLabel);
    put($("title"), title);
    put($("text"), text);
    const failure = (step !== "over" && payment?.failure) || "";
    $("why").hidden = failure === "";
    put($("why"), failure);
    $("away").hidden = step !== "waiting" || this.#away === "";
    put($("away"), this.#away);
    // What can be paid with, while it can.
    const isGood = step === "waiting" && payment?.state === "pending" && !payment.closing && !payment.isOver(now);
    const shown = (isGood && payment.shown) || {};
    const account = { virtual_account: [shown.bank, shown.number], bill: [shown.biller_code, shown.bill_key] }[shown.type];
    $("account").hidden = !account;
    put($("bank"), account ? account[0].toUpperCase() : "");
    put($("number"), account ? grouped(account[1]) : "");
    const left = isGood ? countdown(payment.expiresAt, now) : "";
    $("left").hidden = left === "";
    put($("countdown"), left);
    this.#drawPicture(shown.type === "qr" ? payment.id : null);
    if (payment) this.#bringIntoView(`${payment.id} ${step} ${shown.type}`);
  }

  #words(now) {
    const { payment, sale, step, busy } = this.#till;
    if (step === "over") return OVER[sale.state];
    if (!payment?.isKnown && busy) return SENDING;
    return payment ? words(payment, now) : { title: "", text: "" };
  }

  /** The code's picture, which has to be asked for with the token: an image cannot do that by itself. */
  async #drawPicture(own) {
    if (own === this.#picture.of) return;
    if (this.#picture.url) URL.revokeObjectURL(this.#picture.url);
    const picture = { of: own, url: null, failed: false };
    this.#picture = picture;
    $("qr").hidden = true;
    $("qr").removeAttribute("src");
    $("no-qr").hidden = true;
    if (!own) return;
    try {
      const url = URL.createObjectURL(await this.#hub.picture(`/v1/payments/${own}/qr.svg`));
      if (this.#picture !== picture) return URL.revokeObjectURL(url);
      picture.url = url;
      $("qr").src = url;
      $("qr").hidden = false;
      this.#bringIntoView(url);
    } catch {
      if (this.#picture !== picture) return;
      picture.failed = true;
      $("no-qr").hidden = false;
    }
  }

  /** On a phone the customer's code may be further up than the button that asked for it. */
  #bringIntoView(what) {
    if (what === this.#seen) return;
    this.#seen = what;
    $("payment").scrollIntoView({ block: "nearest" });
  }
}
