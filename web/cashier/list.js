// Lists that are brought up to date in place: whoever is at a button with the keyboard stays at it.

/** What was drawn: by its list and key, { element, item }. */
const drawn = new WeakMap();

/** Puts a text where it is not yet: what is selected, and what a screen reader has said, stays. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Shows items in a list, each by its key. `make(row)` makes an element for a row, whose `item` is the newest of its key; and
 * `update(element, item)` says on it how the item stands.
 */
export function show(list, items, { key, make, update }) {
  const before = drawn.get(list) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const row = before.get(key(item)) ?? {};
    row.item = item;
    row.element ??= make(row);
    update(row.element, item);
    now.set(key(item), row);
  }
  for (const [gone, { element }] of before) if (!now.has(gone)) element.remove();
  [...now.values()].forEach(({ element }, at) => {
    if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
  });
  drawn.set(list, now);
}
