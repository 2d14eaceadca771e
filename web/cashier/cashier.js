// The cashier's page: rings up a few products, shows the customer's code, and says LUNAS when the hub has said that it is paid.

import { Door } from "../live/door.js";
import { Refused } from "../live/hub.js";
import { Screen } from "../live/screen.js";
import { claims, tokenFromAddress } from "../live/token.js";
import { chime, prepare } from "./chime.js";
import { Counter } from "./counter.js";
import { Hub } from "./hub.js";
import { put } from "./list.js";
import { readShelf } from "./shelf.js";
import { Till } from "./till.js";
import { offered } from "./ways.js";

const TOKEN_KEY = "tillwire.cashier.token";
const POLL_EVERY_MS = 5_000;
/** The hub pings every 25 seconds, unless TILLWIRE_PING_SECONDS says otherwise. */
const SILENCE_MAX_MS = 30_000;
const TICK_MS = 1_000;
const REREAD_MIN_MS = 1_000;
const REREAD_MAX_MS = 30_000;

const $ = (id) => document.getElementById(id);
const door = new Door({ enter: take, again: () => screen.resume() });

let hub = null;
let till = null;
let counter = null;
let screen = null;
/** Counts beginnings: what an earlier one still reads is of no use. */
let beginning = 0;
/** Counts readings of the shelf: the last one is the one that counts. */
let reading = 0;
let word = "starting";

/** Goes on with another token: from where we are if it is for the same register, else from the beginning. */
function take(token) {
  door.close();
  const { outlets = [], register = "" } = claims(token);
  if (outlets.length !== 1 || !register) {
    if (!till) state("refused"); // One that is there goes on as it is.
    return door.open("Ini bukan token kasir", "Yang diperlukan adalah token untuk satu outlet dan satu register.");
  }
  sessionStorage.setItem(TOKEN_KEY, token);
  if (till?.outlet === outlets[0] && till.register === register) {
    hub.token = token;
    return screen ? screen.renew(token) : begin();
  }
  till?.leave();
  counter?.close();
  hub = new Hub(token);
  till = new Till({ hub, outlet: outlets[0], register, tell: { changed: () => counter?.draw(), paid: chime, sold: readAgain } });
  counter = new Counter({ till, hub, does: { add: (it) => till.add(it), remove: (it) => till.remove(it), pay } });
  // A customer may be waiting before the code, or for it to be said that they have paid: neither needs the shelf.
  $("till").hidden = !till.sale;
  if (till.sale) {
    counter.draw();
    till.look();
  }
  begin();
}

// --- The shop, and what is told of it --------------------------------------------------------------------------------

/** Reads the shop and listens from its position. Tries until the hub answers or refuses, or another begins. */
async function begin({ delay = 0 } = {}) {
  beginning += 1;
  const own = beginning;
  screen?.close();
  screen = null;
  state("reading");
  let wait = delay;
  for (let pause = REREAD_MIN_MS; ; pause = Math.min(2 * pause, REREAD_MAX_MS)) {
    await new Promise((done) => setTimeout(done, wait));
    if (own !== beginning) return;
    try {
      const read = await readShop();
      if (own === beginning) open(read);
      return;
    } catch (error) {
      if (own !== beginning) return;
      if (error instanceof Refused) return refused(error.code, error.message);
      state("unreachable");
      wait = pause;
    }
  }
}

/** The position comes first: what happens while the rest is read is heard afterwards. */
async function readShop() {
  const { position } = await hub.get(`/v1/snapshot?channel=${channel()}`);
  const [place, methods, shelf] = await Promise.all([
    hub.get(`/v1/outlets/${till.outlet}`),
    hub.get(`/v1/outlets/${till.outlet}/payment-methods`),
    readShelf(hub, till.outlet),
  ]);
  return { position, place, methods, shelf };
}

const channel = () => `payments/${till.outlet}/${till.register}`;

function open({ position, place, methods, shelf }) {
  const register = place.registers.find(({ id }) => id === till.register);
  $("place").textContent = [place.name, register?.name].filter(Boolean).join(" · ");
  $("till").hidden = false;
  till.renew(shelf);
  counter.stock(shelf, offered(methods));
  screen = new Screen({ token: hub.token, channels: [channel()], position, tell });
  // What was told before our position we do not hear, and what is being asked may be answered as it was before it.
  till.look({ again: true });
  till.lookBehind();
  till.lookElsewhere();
}

/** The shelf again. If it cannot be read it stays as it was; the hub has the last word on each sale. */
async function readAgain() {
  reading += 1;
  const [own, from, sale] = [reading, beginning, till.sale];
  try {
    const shelf = await readShelf(hub, till.outlet);
    if (own !== reading || from !== beginning) return;
    if (till.sale !== sale) return readAgain(); // What was rung up meanwhile may still be on it.
    till.renew(shelf);
    counter.stock(shelf);
  } catch {}
}

const tell = {
  state,
  refused,
  moved() {},
  transport() {},
  event(envelope) {
    till.hear(envelope);
  },
  away() {},
  back() {},
  denied(list) {
    const codes = list.map(({ code }) => code).join(", ");
    door.open("Pembayaran tidak dapat didengar", `Token ini tidak boleh mendengar register ini (${codes}).`);
  },
  stale() {
    // Not at once: should the next position not be served either, this must not spin.
    begin({ delay: REREAD_MIN_MS });
  },
  expiring(seconds) {
    door.open("Token segera berakhir", `Masih berlaku ${seconds} detik. Buka tautan yang baru di tab ini; penjualan ini tetap ada.`);
  },
};

const EXPIRED = "Token sudah berakhir. Buka tautan yang baru di tab ini; penjualan ini tetap ada.";
const REVOKED = "Token ini sudah dicabut. Mintalah yang baru kepada atasan.";
const REFUSALS = { expired: EXPIRED, token_expired: EXPIRED, revoked: REVOKED, token_revoked: REVOKED };

function refused(code, detail) {
  state("refused");
  if (code === "disconnected") return door.open("Terputus", "Hub memutuskan koneksi halaman ini.", { retry: true });
  const title = "Hub meminta token lain";
  if (REFUSALS[code]) return door.open(title, REFUSALS[code]);
  door.open(title, "Token ini tidak diterima:", { said: `${detail} (${code})` });
}

const STATES = {
  reading: "Membaca toko",
  unreachable: "Hub tidak menjawab; mencoba lagi",
  connecting: "Menghubungkan",
  reconnecting: "Menghubungkan kembali",
  "catching-up": "Menyusul",
  live: "Terhubung",
  silent: "Hub tidak terdengar; sedang ditanya",
  draining: "Pindah ke node lain",
  refused: "Tidak terhubung",
};
// What does not last is said at the top of the page only.
const BROKEN = new Set(["reading", "unreachable", "reconnecting", "refused", "silent"]);

function state(name) {
  word = name;
  drawState();
}

/** A connection can be dead long before anybody notices. */
function drawState() {
  const name = word === "live" && screen.silentMs > SILENCE_MAX_MS ? "silent" : word;
  document.body.dataset.state = name;
  put($("state"), STATES[name] ?? name);
  counter?.away(BROKEN.has(name) ? STATES[name] : "");
  return name;
}

// --- The buttons, and time -------------------------------------------------------------------------------------------

function pay(way) {
  prepare();
  till.pay(way);
}

$("call-off").addEventListener("click", () => till.callOff());
$("next").addEventListener("click", () => till.next());
$("clear").addEventListener("click", () => till.clear());
$("read").addEventListener("click", () => till.dismiss());
$("to-counter").addEventListener("click", () => {
  $("counter-title").focus();
  $("counter").scrollIntoView();
});

setInterval(() => counter?.tick(), TICK_MS);
// While nothing is heard, the hub is asked.
setInterval(() => {
  const isHeard = drawState() === "live";
  if (till && (!isHeard || till.isUnsure)) till.look();
  till?.lookBehindAgain();
  counter?.retry();
}, POLL_EVERY_MS);

const token = tokenFromAddress() ?? sessionStorage.getItem(TOKEN_KEY);
if (token) take(token);
else {
  state("refused");
  door.open("Halaman ini memerlukan token", "Di sini kasir menjual: hanya untuk yang memegang token kasir.");
}
