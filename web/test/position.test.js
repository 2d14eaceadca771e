import assert from "node:assert/strict";
import { test } from "node:test";
import { Cursor, isAfter, parse } from "../live/position.js";

test("reads positions and nothing else", () => {
  assert.deepEqual(parse("1041.2-9f3ac2d1"), { seq: 1041, event: 2 });
  assert.deepEqual(parse("1041-9f3ac2d1"), { seq: 1041, event: Infinity });
  for (const text of ["", "1041", "1041.0-9f3ac2d1", "1041-9F3AC2D1", "1041-9f3ac2d", " 1-00000000", undefined]) {
    assert.equal(parse(text), null, String(text));
  }
});

test("orders events by number and not by letter, and a whole entry after its events", () => {
  const inOrder = ["0-00000000", "9.1-aaaaaaaa", "9.2-aaaaaaaa", "9.10-aaaaaaaa", "9-aaaaaaaa", "10.1-00000000"];
  inOrder.forEach((left, i) => inOrder.forEach((right, k) => assert.equal(isAfter(left, right), i > k, `${left} ${right}`)));
});

test("a cursor takes each position once, and never goes back", () => {
  const cursor = new Cursor("7.1-00000000");
  assert.deepEqual(
    ["7.1-00000000", "7.2-00000000", "7.2-00000000", "6.9-00000000", "8-00000000", "8.3-00000000", "nonsense"].map(
      (position) => cursor.advance(position),
    ),
    [false, true, false, false, true, false, false],
  );
  assert.equal(cursor.position, "8-00000000");
});
