// What is on the wall: a card for each outlet, with its day and its latest sales. All text is put in as text.

import * as format from "./format.js";

/** How many sales a card keeps. */
const SALES_SHOWN_MAX = 40;
/** How many products of a sale are named. */
const LINES_NAMED_MAX = 2;

const template = (id) => document.getElementById(id).content.firstElementChild;
const OUTLET = template("outlet-template");
const SALE = template("sale-template");

class Card {
  element = OUTLET.cloneNode(true);
  /** Sales that came since the last frame, newest first. */
  #fresh = [];
  #part;

  constructor(outlet) {
    this.#part = (name) => this.element.querySelector(name);
    this.rename(outlet);
  }

  rename(outlet) {
    this.outlet = outlet;
    this.#part("h2").textContent = outlet.name;
    this.#part(".code").textContent = outlet.code;
  }

  add(sale) {
    this.#fresh.unshift(sale);
    this.#fresh.length = Math.min(this.#fresh.length, SALES_SHOWN_MAX);
  }

  draw(day) {
    const list = this.#part(".sales");
    list.prepend(...this.#fresh.map((sale) => row(sale, this.outlet)));
    this.#fresh = [];
    while (list.children.length > SALES_SHOWN_MAX) list.lastElementChild.remove();
    this.#part(".empty").hidden = list.children.length > 0;
    if (!day) return;
    this.#part("header .total").textContent = format.amount(day.totalMinor, day.currency);
    this.#part("header .count").textContent = `${format.count(day.count)} struk`;
    this.#part(".date").textContent = format.businessDay(day.date);
  }

  tick(now) {
    const clock = this.#part(".clock");
    const text = format.minuteAt(this.outlet.time_zone, now);
    if (clock.textContent !== text) clock.textContent = text;
  }

  /** Only the latest recovery is marked. */
  unmark() {
    for (const row of this.element.querySelectorAll(".recovered")) {
      row.classList.remove("recovered");
      row.querySelector(".mark").hidden = true;
    }
  }
}

function row({ envelope, recovered }, outlet) {
  const { data: sale, occurred_at } = envelope;
  const element = SALE.cloneNode(true);
  const put = (name, text) => {
    element.querySelector(name).textContent = text;
  };
  const time = element.querySelector("time");
  time.dateTime = occurred_at;
  time.textContent = format.secondAt(outlet.time_zone, Date.parse(occurred_at));
  // On the outlet's own card, its code need not be repeated.
  put(".number", sale.number.startsWith(`${outlet.code}-`) ? sale.number.slice(outlet.code.length + 1) : sale.number);
  put(".total", format.amount(sale.total_minor, sale.currency));
  put(".named", named(sale.lines));
  element.classList.toggle("recovered", recovered);
  element.querySelector(".mark").hidden = !recovered;
  return element;
}

function named(lines) {
  // No line ends between a quantity and what it is of.
  const one = ({ quantity, name }) => `${format.quantity(quantity)}\u00a0×\u00a0${name}`;
  const names = lines.slice(0, LINES_NAMED_MAX).map(one);
  const left = lines.length - names.length;
  return names.join(", ") + (left > 0 ? `, and ${left} more` : "");
}

export class Board {
  #cards = new Map();
  #root;
  #days;
  #drawing = false;

  constructor(root, days, drawOverall) {
    this.#root = root;
    this.#days = days;
    this.drawOverall = drawOverall;
  }

  /** Shows these outlets. Sales that are already on the wall stay. */
  restart(outlets) {
    const known = this.#cards;
    this.#cards = new Map();
    for (const outlet of [...outlets].sort((a, b) => a.code.localeCompare(b.code))) {
      const card = known.get(outlet.id) ?? new Card(outlet);
      card.rename(outlet);
      this.#cards.set(outlet.id, card);
    }
    this.#root.replaceChildren(...[...this.#cards.values()].map((card) => card.element));
    this.draw();
  }

  /** An outlet opened, or a sale came from one that we have not heard of. */
  open(outlet) {
    const known = this.#cards.get(outlet.id);
    if (known) return known.rename(outlet);
    const card = new Card(outlet);
    this.#cards.set(outlet.id, card);
    this.#root.append(card.element);
    this.draw();
  }

  add(id, sale) {
    if (!this.#cards.has(id)) this.open({ id, code: "", name: id, time_zone: "UTC" });
    this.#cards.get(id).add(sale);
    this.draw();
  }

  outlets() {
    return [...this.#cards.values()].map((card) => card.outlet);
  }

  tick(now) {
    for (const card of this.#cards.values()) card.tick(now);
  }

  unmark() {
    for (const card of this.#cards.values()) card.unmark();
  }

  /** With the next frame: a thousand sales that come at once are drawn once. */
  draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      for (const [id, card] of this.#cards) card.draw(this.#days.of(id));
      this.drawOverall(this.#days.overall(), this.#cards.size);
    });
  }
}
