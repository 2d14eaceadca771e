// The stock JavaScript client as a test's screen: says what happens, one JSON object a line, and does what it is told.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const say = (on, what) => process.stdout.write(`${JSON.stringify({ on, ...what })}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { url, token, channels, transports, ...opening } = JSON.parse((await lines.next()).value);

// The three lines that remember a position, as the documents show them, unless the client is to recover by itself …
let after = opening.after;
const auth = (send) => send({ token, channels, after });
const remember = (args) => (after = typeof args.at(-1) === "string" && !opening.forgetful ? args.at(-1) : after);

// … and impatient, for a test.
const socket = io(url, { auth, transports, reconnectionDelay: 50, reconnectionDelayMax: 500 });
const manager = socket.io;

socket.on("connect", () => {
  say("connect", { id: socket.id, recovered: socket.recovered ?? false, transport: manager.engine.transport.name });
});
manager.on("open", () => {
  manager.engine.on("upgrade", (transport) => say("upgrade", { transport: transport.name }));
});
socket.onAny((name, ...args) => {
  remember(args);
  say("event", { name, args });
});
socket.on("connect_error", ({ message, data }) => say("connect_error", { message, data, tries_again: socket.active }));
socket.on("disconnect", (reason) => say("disconnect", { reason, tries_again: socket.active }));
manager.on("reconnect_attempt", (attempt) => say("reconnect_attempt", { attempt }));

const ask = (name, body) => socket.emit(name, body, (answer) => say("ack", { name, answer }));
const obey = {
  join: ({ channels }) => ask("join", { channels }),
  leave: ({ channels }) => ask("leave", { channels }),
  auth: ({ token }) => ask("auth", { token }),
  seen: ({ position }) => ask("seen", { position }),
  // The engine closes and the client, which did not want it, comes back by itself.
  cut: () => manager.engine.close(),
  offline() {
    manager.reconnection(false);
    manager.engine.close();
  },
  online() {
    manager.reconnection(true);
    socket.connect();
  },
  close: () => socket.disconnect(),
};
for await (const line of lines) {
  const order = JSON.parse(line);
  obey[order.do](order);
}
process.exit(); // Whoever told us what to do is gone.
