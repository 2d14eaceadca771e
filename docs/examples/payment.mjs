import { io } from "socket.io-client"; // A page without a bundler imports the hub's: "/live/socket.io.esm.min.js".

// Follows a payment until LUNAS and after: it listens, and asks every five seconds while it hears nothing.
// `place` is `{outlet}/{register}`. The hub pings every 25 seconds, unless TILLWIRE_PING_SECONDS says otherwise.
const [hub, token, place, payment, silenceMs = 30_000] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}` };
const GONE = ["reversed", "charged_back", "refunded", "partially_refunded"];
let [after, heardAt, shown, sale] = [undefined, 0, "", undefined];

function show(what) {
  if (what !== shown) console.log(what);
  shown = what;
}

// Paid, or taken for paid by somebody who may, and not gone back since; and not for another sale, having come too late for its own.
const isPaid = ({ state, forced, accepted_for }) =>
  !accepted_for && (state === "paid" || state === "settled" || (forced && !GONE.includes(state)));

const socket = io(hub, { auth: (send) => send({ token, channels: [`payments/${place}`], after }) });
socket.io.on("ping", () => (heardAt = Date.now()));
socket.onAny((event, body, position) => {
  heardAt = Date.now();
  if (typeof position === "string") after = position;
  if (event === "ready") ask(); // What was before it began to listen.
  if (body?.data?.payment !== payment) return; // Another customer's.
  if (event === "payment.captured" && body.data.sale === sale && body.data.due_minor === 0) {
    show("LUNAS");
    socket.emit("seen", { position }, () => {}); // Once somebody has looked at it.
  } else if (event === "payment.changed" && !isPaid(body.data)) show(body.data.state);
  else ask(); // It may be a part, or be for another sale.
});

async function get(path) {
  const answer = await fetch(hub + path, { headers, signal: AbortSignal.timeout(4_000) });
  const view = await answer.json();
  if (!answer.ok) throw new Error(view.detail);
  return view;
}

async function ask() {
  const saw = shown;
  try {
    const view = await get(`/v1/payments/${payment}`);
    sale = view.sale;
    const isDone = isPaid(view) && (await get(`/v1/sales/${sale}`)).state === "completed";
    if (shown === saw) show(isDone ? "LUNAS" : view.state); // What was heard meanwhile is newer.
  } catch (error) {
    console.error(error.message); // Nobody there: again in five seconds.
  }
}
setInterval(() => {
  if (!socket.connected || Date.now() - heardAt > silenceMs) ask();
}, 5_000);
