// The stock Socket.IO server on Bun's own HTTP and WebSocket engine.
import { Server } from "socket.io";
import { Server as Engine } from "@socket.io/bun-engine";
import { eachLine } from "./lines.mjs";

const engine = new Engine({ path: "/socket.io/" });
const io = new Server();
io.bind(engine);

const handler = engine.handler();
const server = Bun.serve({
  ...handler,
  hostname: "127.0.0.1",
  port: 0,
  websocket: { ...handler.websocket, perMessageDeflate: false },
});
console.log(`listening ${server.port}`);

eachLine((line) => io.emit("m", JSON.parse(line)));
