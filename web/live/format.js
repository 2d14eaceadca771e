// How Indonesia writes money, quantities and times.

const LOCALE = "id-ID";

// Amounts arrive in the currency's minor unit. The rupiah's is the rupiah; others are as Intl knows them.
const WHOLE_UNITS = new Set(["IDR"]);

const formats = new Map();

function money(currency) {
  let format = formats.get(currency);
  if (!format) {
    const style = { style: "currency", currency };
    const digits = WHOLE_UNITS.has(currency)
      ? 0
      : new Intl.NumberFormat(LOCALE, style).resolvedOptions().maximumFractionDigits;
    const exact = { ...style, minimumFractionDigits: digits, maximumFractionDigits: digits };
    format = { digits, text: new Intl.NumberFormat(LOCALE, exact) };
    formats.set(currency, format);
  }
  return format;
}

/** `Rp 12.500` */
export function amount(minor, currency) {
  const { digits, text } = money(currency);
  return text.format(minor / 10 ** digits);
}

const whole = new Intl.NumberFormat(LOCALE);

/** `1.234` */
export function count(number) {
  return whole.format(number);
}

const thousandths = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 3 });

/** `2.000` is `2`, `0.355` is `0,355`. */
export function quantity(text) {
  return thousandths.format(Number(text));
}

const seconds = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** `84 ms`, `20,4 s` */
export function duration(milliseconds) {
  return milliseconds < 1000 ? `${count(Math.round(milliseconds))} ms` : `${seconds.format(milliseconds / 1000)} s`;
}

const zones = new Map();

function clocks(timeZone) {
  let found = zones.get(timeZone);
  if (!found) {
    const clock = { timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    found = {
      minute: new Intl.DateTimeFormat(LOCALE, { ...clock, timeZoneName: "short" }),
      second: new Intl.DateTimeFormat(LOCALE, { ...clock, second: "2-digit" }),
      date: new Intl.DateTimeFormat("en-US", { timeZone, year: "numeric", month: "2-digit", day: "2-digit" }),
    };
    zones.set(timeZone, found);
  }
  return found;
}

/** `14.32 WIB` */
export function minuteAt(timeZone, milliseconds) {
  return clocks(timeZone).minute.format(milliseconds);
}

/** `14.32.07` */
export function secondAt(timeZone, milliseconds) {
  return clocks(timeZone).second.format(milliseconds);
}

/** The calendar's date there, as `2026-11-23`: what business dates are compared with. */
export function dateAt(timeZone, milliseconds) {
  const parts = clocks(timeZone).date.formatToParts(milliseconds);
  const part = (type) => parts.find((it) => it.type === type).value;
  return `${part("year")}-${part("month")}-${part("day")}`;
}

const day = new Intl.DateTimeFormat(LOCALE, { timeZone: "UTC", weekday: "short", day: "numeric", month: "short" });

/** `Sen, 23 Nov` */
export function businessDay(date) {
  return day.format(new Date(`${date}T00:00:00Z`));
}
