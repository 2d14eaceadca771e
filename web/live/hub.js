// What the page reads over REST: the state to begin with, and the position at which it is true.

import { claims } from "./token.js";

const READ_MAX_MS = 15_000;
const OUTLETS_PER_PAGE = 200;

/** The hub answered, and refuses: another attempt with the same token cannot help. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.code = problem.code;
    /** What is wrong where: { pointer, code }. */
    this.errors = problem.errors ?? [];
  }
}

async function read(token, path, stop) {
  const response = await fetch(path, {
    headers: { authorization: `Bearer ${token}` },
    cache: "no-store",
    signal: AbortSignal.any([stop, AbortSignal.timeout(READ_MAX_MS)]),
  });
  if (response.ok) return { page: await response.json(), date: Date.parse(response.headers.get("date")) };
  if (response.status === 401 || response.status === 403) throw new Refused(await response.json());
  throw new Error(`the hub answered ${response.status}`);
}

/**
 * Today's sales of each outlet, the position to go on from, and the outlets.
 *
 * The outlets are read last: what opened in between is then in both, and changes nothing the second time.
 */
export async function readToday(token, stop) {
  const { page: sales, date } = await read(token, "/v1/snapshot?channel=sales", stop);
  const outlets = [];
  let cursor = "";
  do {
    const path = `/v1/snapshot?channel=outlets&limit=${OUTLETS_PER_PAGE}${cursor && `&cursor=${cursor}`}`;
    const { page } = await read(token, path, stop);
    outlets.push(...page.state);
    cursor = page.next_cursor;
  } while (cursor);
  return { position: sales.position, sales: sales.state, outlets, clock: (date || Date.now()) - Date.now() };
}

/**
 * What to join. Whoever is bound to outlets, or to a register of one, has to name them: the hub decides by the token,
 * we only read what it says.
 */
export function channelsOf(token) {
  const { outlets = [], register } = claims(token);
  if (outlets.length === 0) return ["sales", "outlets"];
  const sales = (outlet) => (register ? `sales/${outlet}/${register}` : `sales/${outlet}`);
  return outlets.flatMap((outlet) => [sales(outlet), `outlets/${outlet}`]);
}
