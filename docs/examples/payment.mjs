import { io } from "socket.io-client"; // A page without a bundler imports the hub's: "/live/socket.io.esm.min.js".

// Follows a payment until LUNAS and after: it listens, and asks every five seconds while it hears nothing.
// `place` is `{outlet}/{register}`. The hub pings every 25 seconds, unless TILLWIRE_PING_SECONDS says otherwise.
const [hub, token, place, payment, silenceMs = 30_000] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}` };
const GONE = ["reversed", "charged_back", "refunded", "partially_refunded"];
let [after, heardAt, shown] = [undefined, 0, ""];

function show(what) {
  if (what !== shown) console.log(what);
  shown = what;
}

// Paid, or taken for paid by somebody who may, and not gone back since; and not for another sale, having come too late for its own.
const isPaid = ({ state, forced, accepted_for }) =>
  !accepted_for && (state === "paid" || state === "settled" || (forced && !GONE.includes(state)));
const words = (it) => (isPaid(it) ? "LUNAS" : it.state);

const socket = io(hub, { auth: (send) => send({ token, channels: [`payments/${place}`], after }) });
socket.io.on("ping", () => (heardAt = Date.now()));
socket.onAny((event, body, position) => {
  heardAt = Date.now();
  if (typeof position === "string") after = position;
  if (event === "ready") ask(); // What was before it began to listen.
  if (body?.data?.payment !== payment) return; // Another customer's.
  if (event === "payment.changed") show(words(body.data));
  if (event === "payment.captured" && body.data.due_minor === 0) {
    show("LUNAS");
    socket.emit("seen", { position }, () => {}); // Once somebody has looked at it.
  }
});

async function ask() {
  const saw = shown;
  try {
    const answer = await fetch(`${hub}/v1/payments/${payment}`, { headers, signal: AbortSignal.timeout(4_000) });
    const view = await answer.json();
    if (!answer.ok) return console.error(view.detail);
    if (shown === saw) show(words(view)); // What was heard meanwhile is newer.
  } catch {} // Nobody there: again in five seconds.
}
setInterval(() => {
  if (!socket.connected || Date.now() - heardAt > silenceMs) ask();
}, 5_000);
