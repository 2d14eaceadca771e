// The door of a page: where a token is asked for. One comes by its form, or by a fresh link that is opened in the same tab.

import { tokenFromAddress, tokenIn } from "./token.js";

const $ = (id) => document.getElementById(id);

export class Door {
  /** `enter(token)` goes in with a token, `again()` with the one that was there before. */
  constructor({ enter, again }) {
    $("door-form").addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      enter(tokenIn($("token").value));
    });
    $("retry").addEventListener("click", () => {
      this.close();
      again();
    });
    addEventListener("hashchange", () => {
      const token = tokenFromAddress();
      if (token) enter(token);
    });
  }

  /** `said` is what the hub says, in its English, whatever the page's language is. */
  open(title, why, { said, retry = false } = {}) {
    $("door-title").textContent = title;
    $("door-why").replaceChildren(why, ...(said ? [" ", english(said)] : []));
    $("retry").hidden = !retry;
    $("door").hidden = false;
  }

  close() {
    $("door").hidden = true;
    $("token").value = "";
  }
}

function english(text) {
  const span = document.createElement("span");
  span.lang = "en";
  span.textContent = text;
  return span;
}
