// The connection: one stock Socket.IO client that remembers how far it has heard, and asks for what follows.

import { Cursor } from "./position.js";
import { io } from "./socket.io.esm.min.js";

const ANSWER_MAX_MS = 10_000;
/** When the hub refuses but says that later may do. */
const REFUSED_RETRY_MS = 5_000;

/**
 * A screen that lasts, however often its connection breaks. It tells:
 * `state(word, detail)`, `transport(name)`, `event(envelope, recovered)`, `moved(position)`, `away()`, `back(summary)`,
 * `denied(list)`, `stale(reason)` when the position cannot be served, `expiring(seconds)`, and `refused(code, detail)`
 * when only a person can help.
 */
export class Screen {
  #socket;
  #token;
  #cursor;
  #tell;
  /** Since when we are away, from where, and what has come back so far. Null while nothing is missing. */
  #away = null;
  #retry;
  /** When the hub said something last, be it a heartbeat. */
  #heardAt = Date.now();

  constructor({ token, channels, position, tell }) {
    this.#token = token;
    this.#cursor = new Cursor(position);
    this.#tell = tell;
    // A function: each attempt sends the token and the position of that moment.
    const auth = (send) => send({ token: this.#token, channels, after: this.#cursor.position });
    this.#socket = io({ auth, forceNew: true });
    this.#listen();
    tell.state("connecting");
  }

  get position() {
    return this.#cursor.position;
  }

  /** How long nothing was heard. The hub pings every 25 seconds; that a connection is dead the client notices a while after. */
  get silentMs() {
    return Date.now() - this.#heardAt;
  }

  #listen() {
    const [socket, tell] = [this.#socket, this.#tell];
    const isThere = () => (this.#heardAt = Date.now());
    socket.io.on("ping", isThere);
    socket.onAny(isThere);
    socket.on("connect", () => this.#connected());
    socket.on("disconnect", (reason) => this.#disconnected(reason));
    socket.on("connect_error", (error) => this.#failed(error));
    socket.io.on("reconnect_attempt", (attempt) => tell.state("reconnecting", attempt));

    socket.onAny((name, body, position) => {
      if (name.includes(".")) this.#heard(body, position);
    });
    socket.on("ready", ({ denied }) => {
      tell.state("catching-up");
      if (denied.length > 0) tell.denied(denied);
    });
    socket.on("caught_up", (_, position) => this.#caughtUp(position));
    socket.on("position", (_, position) => this.#advance(position));
    socket.on("snapshot_required", ({ reason }) => {
      this.close();
      tell.stale(reason);
    });
    socket.on("token_expiring", ({ seconds }) => tell.expiring(seconds));
    socket.on("draining", () => tell.state("draining"));
    socket.on("signed_out", ({ reason }) => this.#signedOut(reason));
  }

  #connected() {
    this.#heardAt = Date.now();
    const engine = this.#socket.io.engine;
    const transport = () => this.#tell.transport(engine.transport.name);
    transport();
    engine.on("upgrade", transport);
    if (this.#away) this.#away.connectedAt = performance.now();
  }

  #disconnected(reason) {
    if (!this.#away) {
      this.#away = { since: performance.now(), from: this.position, events: 0 };
      this.#tell.away();
    }
    this.#tell.transport("");
    // The client's own word for a DISCONNECT packet, after which it does not come back by itself.
    if (reason === "io server disconnect") {
      this.#tell.refused("disconnected", "The hub ended this connection.");
    } else if (this.#socket.active && this.#socket.io.reconnection()) {
      this.#tell.state("reconnecting", 0);
    }
  }

  #failed(error) {
    if (this.#socket.active) return; // It tries again by itself.
    const { code = "refused", retry = false } = error.data ?? {};
    if (!retry) return this.#tell.refused(code, error.message);
    this.#tell.state("reconnecting", 0);
    this.#later(REFUSED_RETRY_MS);
  }

  #signedOut(reason) {
    // Nobody could be vouched for, which is not this token's fault: the client comes back by itself.
    if (reason === "unverifiable") return;
    this.#socket.disconnect();
    this.#tell.refused(reason, reason === "expired" ? "The token has expired." : "The token was revoked.");
  }

  #heard(envelope, position) {
    // What is not after our position was counted before: in the snapshot, or when it came the first time.
    if (!this.#advance(position)) return;
    if (this.#away) this.#away.events += 1;
    this.#tell.event(envelope, this.#away !== null);
  }

  #advance(position) {
    const moved = this.#cursor.advance(position);
    if (moved) this.#tell.moved(position);
    return moved;
  }

  #caughtUp(position) {
    this.#advance(position);
    this.#tell.state("live");
    if (!this.#away) return;
    const { since, connectedAt, from, events } = this.#away;
    this.#away = null;
    const now = performance.now();
    this.#tell.back({ away: connectedAt - since, took: now - connectedAt, events, from, to: this.position });
  }

  /** Closes the engine under the client, and lets it come back after a while: what a tunnel does to a phone. */
  cut(milliseconds) {
    const manager = this.#socket.io;
    manager.reconnection(false);
    manager.engine.close();
    this.#later(milliseconds);
  }

  #later(milliseconds) {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.resume(), milliseconds);
  }

  /** Connects again now, from where it was. */
  resume() {
    clearTimeout(this.#retry);
    this.#socket.io.reconnection(true);
    this.#tell.state("reconnecting", 0);
    this.#socket.connect();
  }

  /** Takes a fresh token: in band if that is accepted, so that nothing is interrupted; else with a new connection. */
  renew(token) {
    this.#token = token;
    if (!this.#socket.connected) return this.resume();
    this.#socket.timeout(ANSWER_MAX_MS).emit("auth", { token }, (late, answer) => {
      if (!late && answer.ok) return;
      this.#socket.disconnect();
      this.resume();
    });
  }

  close() {
    clearTimeout(this.#retry);
    this.#socket.offAny();
    this.#socket.off();
    this.#socket.disconnect();
  }
}
