// What lies on the counter: products, and how many of each.

/** The most of one product in a basket, whatever is in stock. */
const QUANTITY_MAX = 99;

/** A product as the page has it: { variant, name, priceMinor, currency, left }, `left` being how many can be sold. */
export class Basket {
  #lines = new Map();

  /** One more of a product. Says whether there was one more. */
  add(product) {
    const line = this.#lines.get(product.variant) ?? { product, quantity: 0 };
    if (line.quantity >= Math.min(product.left, QUANTITY_MAX)) return false;
    this.#lines.set(product.variant, { product, quantity: line.quantity + 1 });
    return true;
  }

  /** One less. */
  remove(variant) {
    const line = this.#lines.get(variant);
    if (!line) return;
    if (line.quantity > 1) this.#lines.set(variant, { ...line, quantity: line.quantity - 1 });
    else this.#lines.delete(variant);
  }

  clear() {
    this.#lines.clear();
  }

  /** What is known of products by now: prices, and how many are left. */
  renew(products) {
    for (const product of products) {
      const line = this.#lines.get(product.variant);
      if (line) this.#lines.set(product.variant, { ...line, product });
    }
  }

  /** Lays down what lay there before: lines as `lines()` gave them. */
  restore(lines) {
    this.#lines = new Map(lines.map((line) => [line.product.variant, line]));
  }

  /** In the order in which they were laid down: { product, quantity }. */
  lines() {
    return [...this.#lines.values()];
  }

  totalMinor() {
    return this.lines().reduce((sum, { product, quantity }) => sum + product.priceMinor * quantity, 0);
  }

  /** The open sale that the hub is asked for. It is refused if a price is another by now. */
  sale(id, register) {
    const lines = this.lines().map(({ product, quantity }) => ({
      variant: product.variant,
      quantity: String(quantity),
      unit_price_minor: product.priceMinor,
    }));
    return { id, register, open: true, lines };
  }
}

// Why a line is not sold.
const NOT_SOLD = {
  out_of_stock: (name) => `Stok ${name} tidak cukup.`,
  price_changed: (name) => `Harga ${name} berubah; periksa total.`,
  not_for_sale: (name) => `${name} tidak dijual lagi; keluarkan dari keranjang.`,
  unknown_variant: (name) => `${name} tidak dikenal lagi; keluarkan dari keranjang.`,
};

/** Why the hub does not sell these lines, in a cashier's words; nothing if it is none of what these are for. */
export function whyNotSold(lines, errors) {
  const said = errors.map(({ pointer, code }) => {
    const line = lines[/^\/lines\/(\d+)\//.exec(pointer)?.[1]];
    return (line && NOT_SOLD[code]?.(line.product.name)) ?? "";
  });
  return said.filter(Boolean).join(" ");
}

/** What of a product's page can be sold: active, with a price, its first variant alone. */
export function sellable(products) {
  return products
    .filter(({ active, variants }) => active && variants[0]?.price_minor > 0)
    .map(({ name, currency, variants: [{ variant, price_minor, name: kind }] }) => ({
      variant,
      name: kind ? `${name} ${kind}` : name,
      priceMinor: price_minor,
      currency,
    }));
}

/** How many whole ones of a level of stock can be sold: what open sales keep back cannot. */
export function left({ on_hand, reserved }) {
  return Math.max(0, Math.floor(Number(on_hand) - Number(reserved)));
}
