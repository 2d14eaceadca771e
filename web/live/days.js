// The totals of each outlet's business day. They begin with the hub's snapshot, each event after its position adds to
// them once, and they begin anew when the outlet's day does.

/** Sums a day of one outlet: { date, currency, count, totalMinor }. */
export class Days {
  #days = new Map();

  /** Begins again from the state of a snapshot of the topic `sales`. */
  restart(state) {
    this.#days = new Map(
      state.map((row) => [
        row.outlet,
        { date: row.business_date, currency: row.currency, count: row.count, totalMinor: row.total_minor },
      ]),
    );
  }

  /** Counts a sale. A sale of a later day begins that day; one of an earlier day is not today's. */
  add(outlet, sale) {
    let day = this.#days.get(outlet);
    if (!day || day.date < sale.business_date) {
      day = { date: sale.business_date, currency: sale.currency, count: 0, totalMinor: 0 };
      this.#days.set(outlet, day);
    }
    if (day.date !== sale.business_date) return;
    day.count += 1;
    day.totalMinor += sale.total_minor;
  }

  /** Begins the outlet's day if it is a new one there by the clock. Says whether it was. */
  turn(outlet, date) {
    const day = this.#days.get(outlet);
    if (!day || day.date >= date) return false;
    this.#days.set(outlet, { ...day, date, count: 0, totalMinor: 0 });
    return true;
  }

  of(outlet) {
    return this.#days.get(outlet);
  }

  /** All outlets together, each with its own today. A merchant has one currency. */
  overall() {
    const days = [...this.#days.values()];
    return {
      currency: days[0]?.currency,
      count: days.reduce((sum, day) => sum + day.count, 0),
      totalMinor: days.reduce((sum, day) => sum + day.totalMinor, 0),
    };
  }
}
