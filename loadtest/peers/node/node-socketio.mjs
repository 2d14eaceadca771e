// The stock Socket.IO server, with the settings that its performance and memory pages name: no compression, the native
// parts of `ws` (`bufferutil`, found by itself), and the first request of each connection let go.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { eachLine } from "./lines.mjs";

const http = createServer({ noDelay: true });
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});
io.engine.on("connection", (connection) => {
  connection.request = null;
});
http.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => console.log(`listening ${http.address().port}`));

eachLine((line) => io.emit("m", JSON.parse(line)));
