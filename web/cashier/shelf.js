// The shelf: the first products of the catalogue that are in stock at an outlet.

import { left, sellable } from "./basket.js";

const PRODUCTS_SHOWN = 12;
const PRODUCTS_PER_PAGE = 200;
/** How many levels of stock are asked for at once. Browsers let through six: a payment must not queue behind the shelf. */
const LEVELS_AT_ONCE = 4;

/** Products as the page has them, with how many of each are left. */
export async function readShelf(hub, outlet) {
  const page = await hub.get(`/v1/products?limit=${PRODUCTS_PER_PAGE}`);
  const [shelf, candidates] = [[], sellable(page.items)];
  for (let at = 0; at < candidates.length && shelf.length < PRODUCTS_SHOWN; at += LEVELS_AT_ONCE) {
    const some = candidates.slice(at, at + LEVELS_AT_ONCE);
    const levels = await Promise.all(some.map(({ variant }) => hub.get(`/v1/outlets/${outlet}/stock/${variant}`)));
    some.forEach((product, of) => {
      if (left(levels[of]) > 0) shelf.push({ ...product, left: left(levels[of]) });
    });
  }
  return shelf.slice(0, PRODUCTS_SHOWN);
}
