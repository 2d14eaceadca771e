import { io } from "socket.io-client"; // In a page of the hub's own: "/live/socket.io.esm.min.js".

const [hub, token] = process.argv.slice(2);
let after; // The last position heard. Keep it, and nothing is missed.
const auth = (send) => send({ token, channels: ["sales"], after });
io(hub, { auth }).onAny((event, body, position) => {
  if (event === "sale.completed") console.log(body.data.number, body.data.total_minor);
  if (typeof position === "string") after = position;
});
