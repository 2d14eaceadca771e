import assert from "node:assert/strict";
import { test } from "node:test";
import { Days } from "../live/days.js";

const sale = (business_date, total_minor) => ({ business_date, total_minor, currency: "IDR" });

function yesterdayEvening() {
  const days = new Days();
  days.restart([
    { outlet: "jakarta", business_date: "2026-11-22", currency: "IDR", count: 3, total_minor: 30_000 },
    { outlet: "makassar", business_date: "2026-11-23", currency: "IDR", count: 1, total_minor: 5_000 },
  ]);
  return days;
}

test("adds what follows the snapshot, for each outlet and overall", () => {
  const days = yesterdayEvening();
  days.add("jakarta", sale("2026-11-22", 12_500));
  assert.deepEqual(days.of("jakarta"), { date: "2026-11-22", currency: "IDR", count: 4, totalMinor: 42_500 });
  assert.deepEqual(days.overall(), { currency: "IDR", count: 5, totalMinor: 47_500 });
});

test("the first sale of a day begins it, and one of the day before is late", () => {
  const days = yesterdayEvening();
  days.add("jakarta", sale("2026-11-23", 1_000));
  days.add("jakarta", sale("2026-11-22", 99_000));
  assert.deepEqual(days.of("jakarta"), { date: "2026-11-23", currency: "IDR", count: 1, totalMinor: 1_000 });
});

test("midnight begins a day without a sale, at one outlet and not at the other", () => {
  const days = yesterdayEvening();
  assert.equal(days.turn("jakarta", "2026-11-23"), true);
  assert.equal(days.turn("jakarta", "2026-11-23"), false);
  assert.equal(days.turn("makassar", "2026-11-23"), false);
  assert.equal(days.of("jakarta").count, 0);
  assert.equal(days.overall().totalMinor, 5_000);
  // Our clock was ahead of the hub's: what still belongs to the old day is not the new day's.
  days.add("jakarta", sale("2026-11-22", 99_000));
  assert.equal(days.of("jakarta").totalMinor, 0);
});

test("an outlet that opened later has a day from its first sale on", () => {
  const days = yesterdayEvening();
  days.add("bandung", sale("2026-11-23", 700));
  assert.equal(days.of("bandung").count, 1);
  assert.equal(days.turn("nowhere", "2026-11-23"), false);
});
