// A page without a browser: its own index.html as a tree of a few elements, a clock that is set by hand, and a socket that says what a
// test tells it to. What its modules take from a browser is put in `globalThis`.

import { readFileSync } from "node:fs";
import { register } from "node:module";

// The page's Socket.IO client, which is not in the tree: the one below, by whatever name it is imported.
const client = "data:text/javascript,export const io = (options) => globalThis.sockets.open(options);";
const resolve = `export const resolve = (name, context, next) =>
  name.endsWith("/socket.io.esm.min.js") ? { url: ${JSON.stringify(client)}, shortCircuit: true } : next(name, context);`;
register(`data:text/javascript,${encodeURIComponent(resolve)}`);

const VOID = new Set(["meta", "link", "img", "input"]);

class Element {
  parent = null;
  children = [];
  attributes = new Map();
  dataset = {};
  value = "";
  #text = "";
  #listeners = [];

  constructor(page, tag) {
    [this.page, this.tag] = [page, tag];
  }

  // --- What it says ---

  get textContent() {
    return this.children.length > 0 ? this.children.map((it) => it.textContent).join("") : this.#text;
  }
  set textContent(text) {
    if (typeof text !== "string") throw new Error(`a ${typeof text} as the text of ${this.tag}`);
    [this.#text, this.children] = [text, []];
  }
  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }
  setAttribute(name, value) {
    this.attributes.set(name, value);
  }
  removeAttribute(name) {
    this.attributes.delete(name);
  }
  get hidden() {
    return this.attributes.has("hidden");
  }
  set hidden(is) {
    if (is) this.attributes.set("hidden", "");
    else this.attributes.delete("hidden");
  }
  set src(url) {
    this.setAttribute("src", url);
  }
  get classList() {
    const classes = new Set((this.getAttribute("class") ?? "").split(" "));
    const toggle = (name, is) => {
      classes[is ? "add" : "delete"](name);
      this.setAttribute("class", [...classes].join(" "));
    };
    return { toggle };
  }

  // --- Where it is ---

  get content() {
    return { firstElementChild: this.children[0] };
  }
  get isConnected() {
    return this === this.page.root || Boolean(this.parent?.isConnected);
  }
  closest(selector) {
    return this.matches(selector) ? this : (this.parent?.closest(selector) ?? null);
  }
  matches(selector) {
    if (selector === "[hidden]") return this.hidden;
    if (selector.startsWith("#")) return this.getAttribute("id") === selector.slice(1);
    if (selector.startsWith(".")) return (this.getAttribute("class") ?? "").split(" ").includes(selector.slice(1));
    return this.tag === selector;
  }
  querySelectorAll(selector) {
    return this.children.flatMap((it) => [...(it.matches(selector) ? [it] : []), ...it.querySelectorAll(selector)]);
  }
  querySelector(selector) {
    return this.querySelectorAll(selector)[0] ?? null;
  }
  insertBefore(element, next) {
    // As in a browser: what is moved has been taken out, and loses the keyboard.
    element.remove();
    element.parent = this;
    this.children.splice(next ? this.children.indexOf(next) : this.children.length, 0, element);
  }
  append(element) {
    this.insertBefore(element, null);
  }
  prepend(element) {
    this.insertBefore(element, this.children[0]);
  }
  replaceChildren(...all) {
    for (const child of [...this.children]) child.remove();
    for (const it of all) this.append(typeof it === "string" ? this.page.text(it) : it);
  }
  remove() {
    if (!this.parent) return;
    const { focused } = this.page;
    for (let it = focused; it; it = it.parent) if (it === this) this.page.focused = null;
    this.parent.children = this.parent.children.filter((it) => it !== this);
    this.parent = null;
  }
  cloneNode() {
    const copy = new Element(this.page, this.tag);
    copy.attributes = new Map(this.attributes);
    copy.#text = this.#text;
    for (const child of this.children) copy.append(child.cloneNode());
    return copy;
  }

  // --- What is done with it ---

  addEventListener(name, does) {
    this.#listeners.push({ name, does });
  }
  focus() {
    this.page.focused = this;
  }
  scrollIntoView() {
    this.page.scrolled.push(this.getAttribute("id"));
  }
  /** As a person does who sees it. */
  click() {
    if (this.closest("[hidden]")) throw new Error(`${this.tag} ${this.getAttribute("id")} is not to be seen`);
    this.focus();
    this.#happens("click");
  }
  submit() {
    this.#happens("submit");
  }
  #happens(what) {
    for (const { name, does } of this.#listeners) if (name === what) does({ preventDefault() {} });
  }
}

/** The tree of a page that is written as ours are: every element closed, and every attribute in double quotes. */
function parse(page, html) {
  const root = new Element(page, "root");
  let at = root;
  for (const [, comment, end, tag, attributes, text] of html.matchAll(/(<!.*?>)|<\/(\w+)>|<(\w+)([^>]*)>|([^<]+)/gs)) {
    if (comment) continue;
    if (end) {
      if (at.tag !== end) throw new Error(`</${end}> closes <${at.tag}>`);
      at = at.parent;
    } else if (tag) {
      const element = new Element(page, tag);
      for (const [, name, value = ""] of attributes.matchAll(/([\w-]+)(?:="([^"]*)")?/g)) element.attributes.set(name, value);
      at.append(element);
      if (!VOID.has(tag)) at = element;
    } else if (at.children.length === 0) {
      at.textContent = text.trim();
    }
  }
  return root;
}

/** A clock that stands still until it is told to go on. It begins between two seconds: the hub's `Date` does not say so. */
class Clock {
  now = Date.parse("2026-11-23T03:00:00.500Z");
  #timers = new Map();
  #next = 1;

  after(does, ms = 0, every = null) {
    this.#timers.set(this.#next, { at: this.now + ms, does, every });
    return this.#next++;
  }
  stop(timer) {
    this.#timers.delete(timer);
  }
  async go(ms) {
    const end = this.now + ms;
    for (;;) {
      await settled();
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, { at, does, every }] = due;
      this.now = Math.max(this.now, at);
      if (every) this.#timers.set(id, { at: at + every, does, every });
      else this.#timers.delete(id);
      does();
    }
    this.now = end;
    await settled();
  }
}

const immediately = setImmediate;

/** Until all that waits for nothing but its turn has had it. */
async function settled() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((done) => immediately(done));
}

/** The socket that the page has opened last. */
class Sockets {
  #on = new Map();
  #any = null;
  opened = 0;

  open() {
    this.opened += 1;
    this.#on.clear();
    const on = (name, does) => this.#on.set(name, does);
    const engine = { transport: { name: "websocket" }, on() {} };
    return {
      on,
      onAny: (does) => (this.#any = does),
      off: () => this.#on.clear(),
      offAny: () => (this.#any = null),
      connect() {},
      disconnect() {},
      active: true,
      connected: true,
      io: { on, engine, reconnection: () => true },
    };
  }
  says(name, ...args) {
    this.#on.get(name)?.(...args);
  }
  tells(type, data, position) {
    this.#any(type, { type, data }, position);
  }
}

/** What a tab keeps through a reload. */
export class Kept extends Map {
  getItem(key) {
    return this.get(key) ?? null;
  }
  setItem(key, value) {
    this.set(key, String(value));
  }
  removeItem(key) {
    this.delete(key);
  }
}

/** Counts the notes that a page plays. */
function sound(page) {
  const connect = (it) => it;
  const gain = { setValueAtTime() {}, linearRampToValueAtTime() {}, exponentialRampToValueAtTime() {} };
  return {
    AudioContext: function () {
      return { currentTime: 0, destination: {}, resume() {} };
    },
    OscillatorNode: function () {
      return { connect, start: () => (page.notes += 1), stop() {} };
    },
    GainNode: function () {
      return { connect, gain };
    },
  };
}

let loaded = 0;

/**
 * Loads the page of a folder, whose script is called like it. `answers({ method, path, body, key })` is who is asked:
 * { status, body }, or nothing if nobody is there.
 */
export async function load(folder, { hash = "", kept = new Kept(), clock = new Clock(), answers }) {
  const page = { answers, focused: null, scrolled: [], kept, clock, asked: [], sockets: new Sockets(), pictures: 0, notes: 0 };
  page.root = parse(page, readFileSync(new URL(`${folder}/index.html`, import.meta.url), "utf8"));
  page.body = page.root.querySelector("body");
  page.at = (id) => page.root.querySelector(`#${id}`) ?? assertNone(id);
  page.text = (text) => Object.assign(new Element(page, "#text"), { textContent: text });
  const document = {
    body: page.body,
    getElementById: page.at,
    createElement: (tag) => new Element(page, tag),
    get activeElement() {
      return page.focused ?? page.body;
    },
  };
  let begun;
  const begins = new Promise((done) => (begun = done));
  const fetch = async (path, { method = "GET", headers = {}, body, signal } = {}) => {
    begun();
    const asked = { method, path, body: body && JSON.parse(body), key: headers["idempotency-key"] };
    page.asked.push(asked);
    const answer = await Promise.race([page.answers(asked), signal?.isOver].filter(Boolean));
    if (!answer) throw new TypeError("fetch failed");
    const { status = 200, body: said } = answer;
    return {
      status,
      ok: status < 300,
      headers: { get: () => new Date(clock.now).toUTCString() },
      json: async () => structuredClone(said),
      blob: async () => said,
    };
  };
  Object.assign(globalThis, {
    document,
    sessionStorage: kept,
    location: { hash, pathname: "/", search: "" },
    history: { replaceState() {} },
    addEventListener() {},
    fetch,
    sockets: page.sockets,
    setTimeout: (does, ms) => clock.after(does, ms),
    setInterval: (does, ms) => clock.after(does, ms, ms),
    clearTimeout: (timer) => clock.stop(timer),
    ...sound(page),
  });
  Date.now = () => clock.now;
  AbortSignal.timeout = (ms) => ({ isOver: new Promise((_, over) => clock.after(() => over(new DOMException("timed out", "TimeoutError")), ms)) });
  AbortSignal.any = (all) => all.at(-1);
  URL.createObjectURL = () => `blob:${(page.pictures += 1)}`;
  URL.revokeObjectURL = () => {};
  loaded += 1;
  // One may never be done with loading: it goes on asking.
  await Promise.race([import(`${folder}/${folder.split("/").at(-1)}.js?${loaded}`), begins]);
  await clock.go(0);
  return page;
}

function assertNone(id) {
  throw new Error(`nothing on the page is called ${id}`);
}
