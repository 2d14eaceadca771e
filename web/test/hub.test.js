import assert from "node:assert/strict";
import { test } from "node:test";
import { channelsOf } from "../live/hub.js";

const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;

test("joins whole topics, or what the token is bound to", () => {
  assert.deepEqual(channelsOf(token({ role: "display" })), ["sales", "outlets"]);
  assert.deepEqual(channelsOf(token({ outlets: ["a", "b"] })), ["sales/a", "outlets/a", "sales/b", "outlets/b"]);
  assert.deepEqual(channelsOf(token({ outlets: ["a"], register: "r" })), ["sales/a/r", "outlets/a"]);
  assert.deepEqual(channelsOf(token({ outlets: ["a"], name: "Sémarang ÿ" })), ["sales/a", "outlets/a"]);
});

test("leaves it to the hub to refuse what is no token", () => {
  for (const text of ["", "x", "a.b.c", "..", token(null)]) assert.deepEqual(channelsOf(text), ["sales", "outlets"]);
});
