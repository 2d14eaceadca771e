import { io } from "socket.io-client"; // A page without a bundler imports the hub's: "/live/socket.io.esm.min.js".

const [hub, token] = globalThis.process?.argv.slice(2) ?? [location.origin, prompt("Token")];
let after; // The last position heard. Keep it, and nothing is missed.
const auth = (send) => send({ token, channels: ["sales"], after });
io(hub, { auth }).onAny((event, body, position) => {
  if (event === "sale.completed") console.log(body.data.number, body.data.total_minor);
  if (typeof position === "string") after = position;
});
