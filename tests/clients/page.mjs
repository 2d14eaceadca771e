// The live page without its face: the modules that read, listen and count, as a browser would run them.

import { createInterface } from "node:readline";

const say = (on, what) => process.stdout.write(`${JSON.stringify({ on, ...what })}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { url, token } = JSON.parse((await lines.next()).value);

// What the page takes from where it was loaded.
globalThis.location = new URL(url);
const { fetch } = globalThis;
globalThis.fetch = (path, options) => fetch(new URL(path, url), options);

const { Days } = await import("./live/days.js");
const { channelsOf, readToday } = await import("./live/hub.js");
const { Screen } = await import("./live/screen.js");

const today = await readToday(token, new AbortController().signal);
const days = new Days();
days.restart(today.sales);
say("today", { position: today.position, outlets: today.outlets.map((outlet) => outlet.name), overall: days.overall() });

const tell = {
  event(envelope, recovered) {
    if (envelope.type === "sale.completed") days.add(envelope.outlet, envelope.data);
    say("event", { name: envelope.type, args: [envelope], recovered });
  },
  state: (word) => say("state", { word }),
  back: (summary) => say("back", summary),
  away: () => say("away"),
  stale: (reason) => say("stale", { reason }),
  refused: (code, detail) => say("refused", { code, detail }),
  expiring: (seconds) => say("expiring", { seconds }),
  denied: (list) => say("denied", { list }),
  moved() {},
  transport() {},
};
const screen = new Screen({ token, channels: channelsOf(token), position: today.position, tell });

const obey = {
  cut: ({ milliseconds }) => screen.cut(milliseconds),
  resume: () => screen.resume(),
  auth: ({ token }) => screen.renew(token),
  totals: () => say("totals", { overall: days.overall(), position: screen.position }),
};
for await (const line of lines) {
  const order = JSON.parse(line);
  obey[order.do](order);
}
process.exit();
