// The hub's REST API, as a till calls it: each write has a key, and is sent again until an answer settles it.

import { Refused } from "../live/hub.js";

// The hub waits up to ten seconds for a provider.
const ANSWER_MAX_MS = 20_000;
const LOOK_MAX_MS = 4_000;
/** What browsers call a request that took too long. */
const TOO_LATE = new Set(["TimeoutError", "AbortError"]);
const TRIES_MAX = 4;
const PAUSE_MS = 1_000;
/** Dates have whole seconds, cut off: on average it is half a second later. */
const DATE_CUT_MS = 500;

/** A UUID that grows with time (v7), as the hub makes them. Not `crypto.randomUUID`, which pages by plain HTTP do not have. */
export function newId(now = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let at = 0; at < 6; at += 1) bytes[at] = Math.floor(now / 2 ** (8 * (5 - at))) % 256;
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class Hub {
  /** How far the hub's clock is ahead of ours, in milliseconds. */
  clock = 0;
  /** How long a look may take: longer after each that took too long, until one is quick again. */
  #lookMaxMs = LOOK_MAX_MS;

  constructor(token) {
    this.token = token;
  }

  async get(path) {
    return (await this.#settle("GET", path, {})).json();
  }

  /** One try, and a short one: for who asks again in a while, and must not be kept from it by a request that hangs. */
  async look(path) {
    const [began, answerMaxMs] = [Date.now(), this.#lookMaxMs];
    try {
      const said = await (await this.#ask("GET", path, { answerMaxMs })).json();
      if (Date.now() - began < LOOK_MAX_MS) this.#lookMaxMs = LOOK_MAX_MS;
      return said;
    } catch (error) {
      if (TOO_LATE.has(error.name)) this.#lookMaxMs = Math.min(2 * answerMaxMs, ANSWER_MAX_MS);
      throw error;
    }
  }

  async post(path, body, key = newId()) {
    const headers = { "content-type": "application/json", "idempotency-key": key };
    return (await this.#settle("POST", path, { headers, body: JSON.stringify(body) })).json();
  }

  /** A picture that only whoever has the token may see. */
  async picture(path) {
    return (await this.#settle("GET", path, {})).blob();
  }

  async #settle(method, path, said) {
    for (let tried = 1; ; tried += 1) {
      try {
        return await this.#ask(method, path, said);
      } catch (error) {
        if (error instanceof Refused || tried === TRIES_MAX) throw error;
        await new Promise((done) => setTimeout(done, PAUSE_MS));
      }
    }
  }

  async #ask(method, path, { headers, body, answerMaxMs = ANSWER_MAX_MS }) {
    const response = await fetch(path, {
      method,
      headers: { ...headers, authorization: `Bearer ${this.token}` },
      body,
      cache: "no-store",
      signal: AbortSignal.timeout(answerMaxMs),
    });
    const date = Date.parse(response.headers.get("date"));
    if (date) this.clock = date + DATE_CUT_MS - Date.now();
    if (response.ok) return response;
    if (response.status >= 500) throw new Error(`the hub answered ${response.status}`);
    const problem = await response.json();
    if (problem.code === "request_in_flight") throw new Error(problem.detail);
    throw new Refused(problem);
  }
}
