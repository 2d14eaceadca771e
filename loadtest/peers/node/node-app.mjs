// A hub as people write it today: Express, `pg`, Socket.IO with the Redis adapter, and an emit after the commit. Of two
// such processes one is asked by the tills and the other is where the screens are, as behind any balancer.
import { createServer } from "node:http";
import express from "express";
import pg from "pg";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { eachLine } from "./lines.mjs";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 16 });
const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const app = express();
app.use(express.json());
app.set("etag", false);
const http = createServer({ noDelay: true }, app);
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});
io.engine.on("connection", (connection) => {
  connection.request = null;
});
io.on("connection", (socket) => socket.join(socket.handshake.auth.merchant));

app.post("/merchants/:merchant/sales", async (request, response) => {
  const { merchant } = request.params;
  const { register, lines, tenders } = request.body;
  const total = lines.reduce((sum, line) => sum + line.quantity * line.unit_price_minor, 0);
  const client = await pool.connect();
  let sale;
  try {
    await client.query("begin");
    const { rows: [{ receipts }] } = await client.query(
      "update merchants set receipts = receipts + 1 where merchant_id = $1 returning receipts", [merchant]);
    const { rows: [{ sale_id }] } = await client.query(
      "insert into sales (merchant_id, number, register_id, total_minor) values ($1, $2, $3, $4) returning sale_id",
      [merchant, receipts, register, total]);
    await client.query(
      `insert into sale_lines (sale_id, line, variant_id, quantity, unit_price_minor)
       select $1, line, variant, quantity, price
       from unnest($2::int[], $3::uuid[], $4::numeric[], $5::bigint[]) as new (line, variant, quantity, price)`,
      [sale_id, lines.map((_, at) => at + 1), lines.map((it) => it.variant), lines.map((it) => it.quantity),
        lines.map((it) => it.unit_price_minor)]);
    for (const line of lines) {
      await client.query("update stock set on_hand = on_hand - $3 where merchant_id = $1 and variant_id = $2",
        [merchant, line.variant, line.quantity]);
    }
    for (const tender of tenders) {
      await client.query("insert into payments (sale_id, method, amount_minor) values ($1, $2, $3)",
        [sale_id, tender.method, tender.amount_minor]);
    }
    const at_us = Math.round((performance.timeOrigin + performance.now()) * 1000);
    sale = { n: Number(receipts), at_us, sale: sale_id, number: receipts, register, lines, tenders, total_minor: total };
    await client.query("commit");
  } catch (error) {
    await client.query("rollback");
    return response.status(500).json({ error: error.message });
  } finally {
    client.release();
  }
  io.to(merchant).emit("sale.completed", sale);
  response.status(201).json(sale);
});

http.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => console.log(`listening ${http.address().port}`));
eachLine(() => {});
