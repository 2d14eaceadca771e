// Positions: places in the merchant's journal. `1041.2-9f3ac2d1` is event 2 of entry 1041, `1041-9f3ac2d1` all of it.

const FORM = /^(\d+)(?:\.([1-9]\d*))?-[0-9a-f]{8}$/;

/** The entry's number and the event's, or null. A whole entry comes after each of its events. */
export function parse(text) {
  const found = FORM.exec(text);
  return found && { seq: Number(found[1]), event: found[2] ? Number(found[2]) : Infinity };
}

/** Whether `left` comes after `right`. */
export function isAfter(left, right) {
  const [a, b] = [parse(left), parse(right)];
  if (!a || !b) return false;
  return a.seq > b.seq || (a.seq === b.seq && a.event > b.event);
}

/** The last position that was taken in: where to go on from, and what has been counted already. */
export class Cursor {
  constructor(position) {
    this.position = position;
  }

  /** Moves forward, never back. Says whether the position was new. */
  advance(position) {
    if (!isAfter(position, this.position)) return false;
    this.position = position;
    return true;
  }
}
