// The ways to pay that this page offers, of those that the outlet has.

const PROVIDERS = { midtrans: "Midtrans", xendit: "Xendit" };
/** The one bank whose numbers are offered: a plain page has few buttons. */
const BANK = "bni";

export const CASH = { label: "Tunai", body: { method: "cash" }, minMinor: 1, maxMinor: Number.MAX_SAFE_INTEGER };

/**
 * Buttons for the ways of an outlet: { label, body, minMinor, maxMinor }, `body` being what a payment is asked for with. Only
 * where no money moves, each provider's QRIS and one bank's virtual account; and cash, always.
 */
export function offered(ways) {
  const test = ways.filter(({ mode }) => mode === "test");
  const bounds = ({ amount_min_minor, amount_max_minor }) => ({ minMinor: amount_min_minor, maxMinor: amount_max_minor });
  const named = ({ provider }) => PROVIDERS[provider] ?? provider;
  const codes = test
    .filter(({ method }) => method === "qris")
    .map((way) => ({
      label: `QRIS ${named(way)}`,
      body: { method: "qris", provider: way.provider, mode: "test" },
      ...bounds(way),
    }));
  const transfer = test.find(({ method, bank }) => method === "bank_transfer" && bank === BANK);
  const numbers = transfer
    ? [
        {
          label: `VA ${BANK.toUpperCase()}`,
          body: { method: "transfer", provider: transfer.provider, mode: "test", bank: BANK },
          ...bounds(transfer),
        },
      ]
    : [];
  return [...codes, ...numbers, CASH];
}

/** Whether an amount can be paid so. */
export function carries({ minMinor, maxMinor }, amountMinor) {
  return amountMinor >= minMinor && amountMinor <= maxMinor;
}
