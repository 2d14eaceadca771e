// The live page: reads the day, hears what follows it, and says how it stands with the connection.

import { Board } from "./board.js";
import { Days } from "./days.js";
import { Door } from "./door.js";
import * as format from "./format.js";
import { channelsOf, readToday, Refused } from "./hub.js";
import { Screen } from "./screen.js";
import { tokenFromAddress } from "./token.js";

const CUT_MS = 20_000;
const TICK_MS = 1_000;
const REREAD_MIN_MS = 1_000;
const REREAD_MAX_MS = 30_000;
const TOKEN_KEY = "tillwire.token";

const $ = (id) => document.getElementById(id);
const days = new Days();
const board = new Board($("outlets"), days, drawOverall);
const door = new Door({ enter: take, again: () => screen.resume() });

let screen = null;
let reading = new AbortController();
/** How far the hub's clock is ahead of ours, in milliseconds. */
let clock = 0;
let backAt = null;

const hubTime = () => Date.now() + clock;

// --- The token -------------------------------------------------------------------------------------------------------

/** Goes on with another token: from where we are if it hears the same, else from the beginning. */
function take(token) {
  const before = sessionStorage.getItem(TOKEN_KEY) ?? "";
  sessionStorage.setItem(TOKEN_KEY, token);
  door.close();
  if (!screen || String(channelsOf(token)) !== String(channelsOf(before))) return begin(token);
  screen.renew(token);
}

// --- The day, and what follows it ------------------------------------------------------------------------------------

/** Reads the day and listens from its position. Tries until the hub answers or refuses, or another begins. */
async function begin(token, { delay = 0 } = {}) {
  screen?.close();
  screen = null;
  reading.abort();
  reading = new AbortController();
  const { signal: stop } = reading;
  state("reading");
  let wait = delay;
  for (let pause = REREAD_MIN_MS; ; pause = Math.min(2 * pause, REREAD_MAX_MS)) {
    await new Promise((done) => setTimeout(done, wait));
    if (stop.aborted) return;
    try {
      const today = await readToday(token, stop);
      if (!stop.aborted) show(token, today);
      return;
    } catch (error) {
      if (stop.aborted) return;
      if (error instanceof Refused) return refused(error.code, error.message);
      state("unreachable");
      wait = pause;
    }
  }
}

function show(token, today) {
  clock = today.clock;
  backAt = null;
  drawCut();
  days.restart(today.sales);
  board.restart(today.outlets);
  moved(today.position);
  $("today").hidden = $("cut").hidden = false;
  tick();
  screen = new Screen({ token, channels: channelsOf(token), position: today.position, tell });
}

const hears = {
  "sale.completed"(envelope, recovered) {
    days.add(envelope.outlet, envelope.data);
    board.add(envelope.outlet, { envelope, recovered });
  },
  "outlet.opened"({ data }) {
    board.open({ ...data, id: data.outlet });
  },
};

const tell = {
  state,
  moved,
  refused,
  transport(name) {
    $("transport").textContent = name;
  },
  event(envelope, recovered) {
    hears[envelope.type]?.(envelope, recovered);
  },
  away() {
    board.unmark();
  },
  back(summary) {
    backAt = null;
    drawCut();
    drawRecovery(summary);
  },
  denied(list) {
    const names = list.map(({ channel, code }) => `${channel} (${code})`).join(", ");
    door.open("Not everything may be heard", `This token may not hear ${names}.`);
  },
  stale(reason) {
    const why = reason === "diverged" ? "The journal is not the one we followed" : "The journal no longer reaches back";
    note(`${why}: the day was read anew, and nothing is missing from the totals.`);
    // Not at once: should the next position not be served either, this must not spin.
    begin(sessionStorage.getItem(TOKEN_KEY), { delay: REREAD_MIN_MS });
  },
  expiring(seconds) {
    door.open("The token ends soon", `It is good for another ${seconds} s. With a fresh one nothing is missed.`);
  },
};

function refused(code, detail) {
  state("refused");
  const retry = code === "disconnected";
  door.open(retry ? "Disconnected" : "The hub asks for another token", `${detail} (${code})`, { retry });
}

// --- What is said ----------------------------------------------------------------------------------------------------

const STATES = {
  reading: () => "Reading the day",
  unreachable: () => "The hub does not answer; trying again",
  connecting: () => "Connecting",
  reconnecting: (attempt) => (attempt > 1 ? `Reconnecting, attempt ${attempt}` : "Reconnecting"),
  "catching-up": () => "Catching up",
  live: () => "Live",
  cut: () => "Cut off: the tills go on selling, this page hears nothing",
  draining: () => "This node is going away; another takes over",
  refused: () => "Not connected",
};

function state(word, detail) {
  document.body.dataset.state = word;
  $("state").textContent = STATES[word](detail);
  $("cut").setAttribute("aria-disabled", String(word !== "live"));
}

function moved(position) {
  $("position").textContent = position;
}

function drawOverall({ currency, count, totalMinor }, outlets) {
  $("no-outlets").hidden = outlets > 0 || !screen;
  if (!currency) return;
  $("total").textContent = format.amount(totalMinor, currency);
  $("count").textContent = format.count(count);
  $("average").textContent = count > 0 ? format.amount(Math.round(totalMinor / count), currency) : "–";
}

function note(text) {
  $("recovery").replaceChildren(line("p", text));
}

function drawRecovery({ away, took, events, from, to }) {
  const what = events === 1 ? "1 event" : `${format.count(events)} events`;
  const range = line("p", "");
  range.append("from ", line("code", from), " to ", line("code", to));
  const how = `Away ${format.duration(away)}; ${what} recovered in ${format.duration(took)}`;
  $("recovery").replaceChildren(line("p", how), range);
}

function line(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

// --- Cut me off ------------------------------------------------------------------------------------------------------

// Not `disabled`, which would take the keyboard's focus away.
$("cut").addEventListener("click", () => {
  if ($("cut").getAttribute("aria-disabled") === "true") return;
  backAt = Date.now() + CUT_MS;
  screen.cut(CUT_MS);
  state("cut");
  drawCut();
});

function drawCut() {
  const left = backAt && Math.ceil((backAt - Date.now()) / 1000);
  $("cut").textContent = left === null ? "Cut me off for 20 seconds" : left > 0 ? `Back in ${left} s` : "Coming back";
}

// --- Time ------------------------------------------------------------------------------------------------------------

/** Clocks, the countdown, and midnight at each outlet. */
function tick() {
  const now = hubTime();
  board.tick(now);
  if (backAt !== null) drawCut();
  const turned = board.outlets().filter(({ id, time_zone }) => days.turn(id, format.dateAt(time_zone, now)));
  if (turned.length > 0) board.draw();
}

setInterval(tick, TICK_MS);

const token = tokenFromAddress() ?? sessionStorage.getItem(TOKEN_KEY);
if (token) take(token);
else {
  state("refused");
  door.open("This page needs a token", "It shows what happens at a merchant’s tills, live, to whoever may see it.");
}
