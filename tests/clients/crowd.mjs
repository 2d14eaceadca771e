// Many stock JavaScript clients with default options in one process. Asked for a report, it says what has happened to
// each since the beginning, in one line of JSON.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { url, token, channels, many, options } = JSON.parse((await lines.next()).value);

// One connection each: clients of one page would share one. They remember nothing themselves.
const crowd = Array.from({ length: many }, () => {
  const one = { sids: [], recovered: [], left: [], errors: [], start: null, heard: [] };
  const socket = io(url, { auth: (send) => send({ token, channels }), forceNew: true, ...options });
  socket.on("connect", () => {
    one.sids.push(socket.io.engine.id);
    one.recovered.push(socket.recovered ?? false);
  });
  socket.on("disconnect", (reason) => one.left.push(reason));
  socket.on("connect_error", ({ message }) => one.errors.push(message));
  socket.onAny((name, ...args) => {
    if (name === "ready") one.start ??= args.at(-1);
    if (name.includes(".")) one.heard.push(args.at(-1));
  });
  return () => ({ ...one, connected: socket.connected, transport: socket.io.engine?.transport.name });
});

for await (const _ of lines) process.stdout.write(`${JSON.stringify(crowd.map((report) => report()))}\n`);
process.exit(); // Whoever asked us is gone.
