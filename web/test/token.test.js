import assert from "node:assert/strict";
import { test } from "node:test";
import { claims, tokenFromAddress, tokenIn } from "../live/token.js";

test("a token is taken out of the address, and the rest of it stays", () => {
  const replaced = [];
  globalThis.history = { replaceState: (...what) => replaced.push(what[2]) };
  globalThis.location = { hash: "#token=a.b-c.d_e", pathname: "/kasir", search: "?x=1" };
  assert.equal(tokenFromAddress(), "a.b-c.d_e");
  assert.deepEqual(replaced, ["/kasir?x=1"]);
  globalThis.location = { hash: "", pathname: "/kasir", search: "" };
  assert.equal(tokenFromAddress(), null);
  assert.equal(replaced.length, 1);
});

test("what is pasted may be a token or a link", () => {
  for (const text of ["a.b.c", " a.b.c\n", "http://127.0.0.1:8080/kasir#token=a.b.c", "#x=1&token=a.b.c&y=2"]) {
    assert.equal(tokenIn(text), "a.b.c", text);
  }
});

test("what is no token says nothing", () => {
  for (const text of ["", "x", "a.b.c", "..", "a.bnVsbA.c"]) assert.deepEqual(claims(text), {}, text);
});
