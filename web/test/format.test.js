import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../live/format.js";

/** Where Intl puts spaces, and of which kind, is its own business. */
const plain = (text) => text.replaceAll(/\s/g, "");

test("writes whole rupiah, and other currencies in their own units", () => {
  assert.equal(plain(format.amount(1_234_500, "IDR")), "Rp1.234.500");
  assert.equal(plain(format.amount(0, "IDR")), "Rp0");
  assert.equal(plain(format.amount(1_250, "USD")), "US$12,50");
  assert.equal(plain(format.amount(1_250, "JPY")), "JP¥1.250");
});

test("writes quantities without the zeros that mean nothing", () => {
  assert.deepEqual(["2.000", "0.355", "6.980", "1200.000"].map(format.quantity), ["2", "0,355", "6,98", "1.200"]);
});

test("writes times by the outlet's clock", () => {
  const late = Date.parse("2026-11-23T16:30:05Z");
  assert.equal(plain(format.minuteAt("Asia/Jakarta", late)), "23.30WIB");
  assert.equal(plain(format.minuteAt("Asia/Makassar", late)), "00.30WITA");
  assert.equal(format.secondAt("Asia/Jakarta", late), "23.30.05");
});

test("knows which day it is at the outlet", () => {
  const late = Date.parse("2026-11-23T16:30:05Z");
  assert.equal(format.dateAt("Asia/Jakarta", late), "2026-11-23");
  assert.equal(format.dateAt("Asia/Makassar", late), "2026-11-24");
  assert.equal(plain(format.businessDay("2026-11-23")), "Sen,23Nov");
});

test("writes durations as people say them", () => {
  assert.equal(plain(format.duration(83.6)), "84ms");
  assert.equal(plain(format.duration(20_430)), "20,4s");
});
