import assert from "node:assert/strict";
import { test } from "node:test";
import { Basket, left, sellable } from "../cashier/basket.js";

const bread = { variant: "b", name: "Roti", priceMinor: 7_500, currency: "IDR", left: 2 };
const milk = { variant: "m", name: "Susu", priceMinor: 18_250, currency: "IDR", left: 1_000 };

test("counts what is laid down, and no more than there is", () => {
  const basket = new Basket();
  assert.deepEqual([basket.add(bread), basket.add(milk), basket.add(bread), basket.add(bread)], [true, true, true, false]);
  assert.equal(basket.totalMinor(), 2 * 7_500 + 18_250);
  basket.remove("b");
  basket.remove("m");
  basket.remove("m");
  assert.deepEqual(basket.lines(), [{ product: bread, quantity: 1 }]);
  basket.clear();
  assert.deepEqual([basket.totalMinor(), basket.lines()], [0, []]);
  for (let more = 0; more < 200; more += 1) basket.add(milk);
  assert.equal(basket.lines()[0].quantity, 99);
});

test("is kept, and brought up to date", () => {
  const basket = new Basket();
  basket.add(bread);
  basket.add(bread);
  const other = new Basket();
  other.restore(JSON.parse(JSON.stringify(basket.lines())));
  assert.deepEqual(other.lines(), [{ product: bread, quantity: 2 }]);
  other.renew([{ ...bread, priceMinor: 8_000, left: 3 }, milk]);
  assert.deepEqual([other.totalMinor(), other.add({ ...bread, left: 3 }), other.lines().length], [16_000, true, 1]);
});

test("is rung up as an open sale at the prices that were shown", () => {
  const basket = new Basket();
  basket.add(bread);
  basket.add(bread);
  assert.deepEqual(basket.sale("s", "r"), {
    id: "s",
    register: "r",
    open: true,
    lines: [{ variant: "b", quantity: "2", unit_price_minor: 7_500 }],
  });
});

test("offers what is active and has a price", () => {
  const variants = [{ variant: "v", price_minor: 500, name: "besar" }];
  const product = { name: "Teh", currency: "IDR", active: true, variants };
  const free = { ...product, variants: [{ variant: "w", price_minor: 0 }] };
  const offered = sellable([product, { ...product, active: false }, free, { ...product, variants: [] }]);
  assert.deepEqual(offered, [{ variant: "v", name: "Teh besar", priceMinor: 500, currency: "IDR" }]);
});

test("sells whole ones, and not what open sales keep back", () => {
  const levels = [["10.000", "2.000"], ["2.750", "0.000"], ["1.000", "1.000"], ["0.000", "3.000"]];
  assert.deepEqual(levels.map(([on_hand, reserved]) => left({ on_hand, reserved })), [8, 2, 0, 0]);
});
