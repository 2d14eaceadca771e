// The live page's door, over a page without a browser. What follows is driven against a hub: `tests/clients/page.mjs`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { load } from "./page.js";

test("without a token the door is open, and a refused one opens it again", async () => {
  const answers = async () => ({ status: 401, body: { code: "token_invalid", detail: "This is no token." } });
  const page = await load("../live", { answers });
  const text = (id) => page.at(id).textContent;
  assert.deepEqual([page.at("door").hidden, text("door-title"), page.asked.length], [false, "This page needs a token", 0]);
  page.at("token").value = "http://hub/#token=a.b.c";
  page.at("door-form").submit();
  assert.deepEqual([page.at("door").hidden, page.at("token").value], [true, ""]);
  await page.clock.go(0);
  assert.deepEqual([page.at("door").hidden, text("door-why")], [false, "This is no token. (token_invalid)"]);
  assert.equal(page.asked[0].path, "/v1/snapshot?channel=sales");
});
