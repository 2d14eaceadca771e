// Generated from the crate `channels`; `bin/test --fix` writes it anew.
//
//   const socket: Socket<ServerEvents<"till">, ClientEvents> = io(url, {
//     auth: async (send) => send({ token: await freshToken(), channels: ["sales"] } satisfies Connect),
//   });
//   socket.on("sale.completed", (event, position) => show(event.data.number));

/** Someone's tokens are no longer good. */
export interface AccessRevoked {
  staff: StaffId;
  /** Tokens issued up to this moment are dead. */
  issued_until: string;
}

/** The acknowledgement of `seen`, and of anything that went wrong. */
export interface Acknowledged {
  ok: boolean;
  /** A stable word for what went wrong. */
  code?: string;
}

/** Something that a person should look at. It is complete for whoever reads it, and holds no secrets. */
export interface AlertRaised {
  /** What it is about, as a word for programs: `webhook_disabled`, `sale_not_paid`. There will be others. */
  alert: string;
  severity: Severity;
  /** In a few words of plain English. */
  title: string;
  /** In a sentence or two: what happened, and what to do. */
  detail: string;
  /** The id of what it is about, such as the webhook's. */
  subject: string | null;
  outlet: OutletId | null;
  register: RegisterId | null;
}

/** `auth`, sent by a screen: a fresh token, in band. */
export interface Auth {
  token: string;
}

/** `caught_up`: a replay ended, what follows is live. The position it ended at follows it. */
export interface CaughtUp {
  /** How many events were sent; one that stands for others is one. */
  replayed: number;
}

/**
 * What a screen joins: a topic, optionally narrowed to an outlet, and to a register of it.
 *
 * On the wire `sales`, `stock/{outlet}`, `payments/{outlet}/{register}`. A channel hears what happens on every
 * channel that it is a beginning of, so `sales` hears all outlets.
 */
export type Channel = string;

/** What a screen sends when it connects: the `auth` of a Socket.IO client. */
export interface Connect {
  /** A bearer token, as for REST. The client should pass `auth` as a function, so that a reconnect sends a fresh one. */
  token: string;
  /** What to join at once; names that are not allowed come back as denied. */
  channels?: Array<string>;
  /** The last position seen, to hear everything that followed it. */
  after?: string;
  /** Set by clients that recover by themselves: the private id of the connection that was lost. */
  pid?: string;
  /** Set by clients that recover by themselves: the last offset seen. It beats `after`. */
  offset?: string;
}

/** A channel that was not joined; as `snapshot_denied`, one that was and whose state does not come. */
export interface Denied {
  /** The channel, as it was asked for. */
  channel: string;
  code: DeniedCode;
}

/** Why a channel was not joined. */
export type DeniedCode = "unknown_channel" | "forbidden" | "too_many" | "too_large";

/** `draining`: this node is going away; the connection closes and should be made again. */
export type Draining = Record<symbol, never>;

/**
 * An event as a screen and the change feed get it. Its position travels beside it, as the packet's last argument.
 *
 * In TypeScript it has two parameters, the type of event `T` and the view `V`, on which its data depends.
 */
export interface Envelope<T extends EventType = EventType, V extends View = "office"> {
  /** The number of its entry. */
  seq: number;
  /** Which event of the entry it is, from 1, and of how many. */
  of: [number, number];
  /** What happened, e.g. `sale.completed`. */
  type: T;
  outlet: OutletId | null;
  register: RegisterId | null;
  /** When it happened, by the clock of whoever reported it. */
  occurred_at: string;
  /** When it was committed, by the database's clock. Never runs backwards within a journal. */
  recorded_at: string;
  /** Who did it; `null` for views that show no people. */
  actor: StaffId | null;
  /** What the view shows of the event's data. */
  data: Data<T, V>;
  /** For a latest-value topic: how many earlier events of the same value this one stands for. */
  merged?: number;
}

/** `join`, sent by a screen. */
export interface Join {
  channels: Array<string>;
  /** Whether `snapshot` shall bring the state of these channels, as far as their topics have any. */
  snapshot?: boolean;
}

/** The acknowledgement of `join` and `leave`, and of `auth`: what a fresh token no longer allows has been left. */
export interface Joined {
  /** Whether nothing was denied. */
  ok: boolean;
  /** Everything that is joined now. */
  joined: Array<Channel>;
  denied: Array<Denied>;
  /**
   * Where it took effect: later events follow the new channels. Not a place to come back to: events from before it may
   * still be on their way. Keep the positions of packets.
   */
  position: Position | null;
}

/** `leave`, sent by a screen. */
export interface Leave {
  channels: Array<string>;
}

/** A way to pay. */
export type Method = "cash" | "card" | "qris" | "transfer" | "ewallet";

/** `position`: nothing for this screen, but the journal has moved. The position follows it. */
export type Moved = Record<symbol, never>;

/** An outlet: one shop of a merchant. */
export type OutletId = string;

/** The merchant opened an outlet. */
export interface OutletOpened {
  outlet: OutletId;
  code: string;
  name: string;
  /** An IANA name such as `Asia/Jakarta`. */
  time_zone: string;
}

/** Money arrived for a sale. */
export interface PaymentCaptured {
  payment: PaymentId;
  sale: SaleId;
  outlet: OutletId;
  register: RegisterId;
  method: Method;
  currency: string;
  amount_minor: number;
  tendered_minor: number;
  change_minor: number;
  /** What is due of its sale after that: at 0 it is paid. Entries from before it was told do not say. */
  due_minor: number | null;
}

/**
 * A payment that a provider carries has come to another state, or has something new to show. That it is paid is told by
 * `payment.captured`.
 */
export interface PaymentChanged {
  payment: PaymentId;
  sale: SaleId;
  outlet: OutletId;
  register: RegisterId;
  /** Who carries it: `midtrans`, `xendit`. There will be others. */
  provider: string;
  /** `qris`, `bank_transfer` or `card`. There will be others. */
  method: string;
  /** Which bank a transfer goes to. */
  bank: string | null;
  currency: string;
  amount_minor: number;
  state: PaymentState;
  /** What the customer is shown to pay with, while they can. */
  shown: PaymentShown | null;
  /** When it is called off by itself. */
  expires_at: string;
  /**
   * Why it failed, or why the money that is held was not taken: a word of ours where its provider refused what it was asked for,
   * else as it names it.
   */
  failure: string | null;
  /** That somebody has taken it for paid before its provider said so. Its sale is paid by it. */
  forced: PaymentForced | null;
  /** The other sale that its money pays, since a person has said so: it was late for its own. */
  accepted_for: SaleId | null;
}

/** That somebody has taken a payment for paid which its provider has not confirmed yet. */
export interface PaymentForced {
  by: StaffId;
  at: string;
  /** In their own words. */
  reason: string;
}

/** A payment of a sale. */
export type PaymentId = string;

/** What a customer is shown to pay with. */
export type PaymentShown = { "type": "qr", text: string, } | { "type": "virtual_account", bank: string, number: string, } | { "type": "bill", biller_code: string, bill_key: string, } | { "type": "redirect", url: string, };

/** Where a payment stands that a provider carries. */
export type PaymentState = "created" | "unknown" | "pending" | "review" | "authorized" | "paid" | "settled" | "partially_refunded" | "refunded" | "failed" | "canceled" | "expired" | "paid_late" | "reversed" | "charged_back";

/**
 * `1041.2-9f3ac2d1`: event 2 of entry 1041, whose chain hash begins with `9f3ac2d1`. `1041-9f3ac2d1` is the whole
 * entry, `0-00000000` the place before the first.
 *
 * An event's position is its id, its Socket.IO offset and its idempotency key at once.
 */
export type Position = string;

/**
 * `presence`: who is at an outlet, or at all of them, as of now. A whole new list whenever it changes, at most about
 * once a second; also after every connect and `join` of the channel, recovered or not.
 */
export interface Presence {
  channel: Channel;
  /** The longest there first. */
  present: Array<Present>;
  /** How many more there are: `GET /v1/outlets/{outlet}/presence` names more of them. */
  more: number;
}

/** Somebody at an outlet: everyone with a screen whose token is bound to it, once for each register. */
export interface Present {
  outlet: OutletId;
  /** The register that the token is bound to, and its name. */
  register: RegisterId | null;
  register_name: string | null;
  /** Whose token it is, and their name, if they are in the merchant's list of staff. */
  staff: StaffId;
  staff_name: string | null;
  role: Role;
  /** When the first of the screens came that are there now. */
  since: string;
  /** How many screens. */
  screens: number;
}

/** A product is new or was changed; this is all of it. */
export interface ProductChanged {
  product: ProductId;
  name: string;
  department: string | null;
  category: string | null;
  brand: string | null;
  package: string | null;
  currency: string;
  /** Whether it can be sold. */
  active: boolean;
  /** Counts the changes of this product, from 1. */
  version: number;
  variants: Array<VariantState>;
}

/** A product: what the catalogue lists. */
export type ProductId = string;

/** A number of units with three decimals, e.g. `"2.000"` or `"0.355"`. Kept in thousandths, never in floats. */
export type Quantity = string;

/** `ready`: the first packet to a screen. The position that replay starts from follows it. */
export interface Ready {
  joined: Array<Channel>;
  denied: Array<Denied>;
  /** Whether a lost connection was taken up again, its channels with it. */
  recovered: boolean;
}

/**
 * A refund of a payment that a provider carries was asked for, or has come to another state. Once `succeeded` it is what the
 * payment was refunded.
 */
export interface RefundChanged {
  refund: RefundId;
  payment: PaymentId;
  /** The sale that the payment pays or, where it was late, once was for. */
  sale: SaleId;
  outlet: OutletId;
  register: RegisterId;
  currency: string;
  amount_minor: number;
  state: RefundState;
  /** Why it failed: a word of ours where its provider refused what it was asked for, else as it names it. */
  failure: string | null;
  /** What of the payment has been given back by now. */
  refunded_minor: number;
}

/** A refund of a payment, or of a part of it. */
export type RefundId = string;

/** Where a refund stands. */
export type RefundState = "created" | "unknown" | "pending" | "succeeded" | "failed" | "canceled";

/** The `data` of a refused connection, beside its `message`. */
export interface Refused {
  /** `unauthenticated`, `invalid_auth`, `unknown_merchant` … */
  code: string;
  /** Whether trying again later with the same token can help. It cannot: what time can mend closes the connection instead. */
  retry: boolean;
}

/** An outlet has a new register. */
export interface RegisterEnrolled {
  outlet: OutletId;
  register: RegisterId;
  code: string;
  name: string;
}

/** A register: one till position in an outlet. */
export type RegisterId = string;

/** How much of a variant is reserved. */
export interface ReservedLevel {
  variant: VariantId;
  sku: string;
  name: string;
  /** How much is reserved now, by all open sales. */
  reserved: Quantity;
  /** By how much that changed; negative for what was let go of. */
  change: Quantity;
}

/** What someone is to a merchant. */
export type Role = "owner" | "manager" | "cashier" | "clerk" | "accountant" | "auditor" | "display";

/** A sale was completed: its lines are out of stock and its total is paid. */
export interface SaleCompleted {
  sale: SaleId;
  /** The receipt's number, unique for the merchant. */
  number: string;
  outlet: OutletId;
  register: RegisterId;
  /** The day it counts for at the outlet, as `YYYY-MM-DD`. */
  business_date: string;
  /** ISO 4217. Amounts are integers in its minor unit; the rupiah's is the rupiah. */
  currency: string;
  lines: Array<SaleLine>;
  /** The lines before any discount. */
  subtotal_minor: number;
  /** All discounts, of lines and of the sale. */
  discount_minor: number;
  total_minor: number;
  tenders: Array<Tender>;
}

/** A sale, made by the till before it is sent. */
export type SaleId = string;

/** A line of a sale. */
export interface SaleLine {
  /** From 1, as on the receipt. */
  line: number;
  variant: VariantId;
  sku: string;
  /** The name as it was on the day. */
  name: string;
  quantity: Quantity;
  unit_price_minor: number;
  /** The line's own discount and its share of the sale's. */
  discount_minor: number;
  total_minor: number;
}

/**
 * A sale was opened: its lines are priced and reserved, and it waits for the rest of its payments. `sale.completed` or
 * `sale.voided` will say how it ended.
 */
export interface SaleOpened {
  sale: SaleId;
  /** The receipt's number, unique for the merchant. It keeps it, however it ends. */
  number: string;
  outlet: OutletId;
  register: RegisterId;
  currency: string;
  lines: Array<SaleLine>;
  /** The lines before any discount. */
  subtotal_minor: number;
  /** All discounts, of lines and of the sale. */
  discount_minor: number;
  total_minor: number;
  /** What was paid as it was opened. */
  tenders: Array<Tender>;
  /** What is still to be paid. */
  due_minor: number;
  /** When it ends by itself, if nothing of it is paid by then. Something may hold that up. */
  expires_at: string;
}

/** An open sale came to nothing: nothing of it was sold, and what was reserved for it is free. Its number is not used again. */
export interface SaleVoided {
  sale: SaleId;
  number: string;
  outlet: OutletId;
  register: RegisterId;
  currency: string;
  total_minor: number;
  reason: VoidReason;
  /** What somebody said of it who voided it. */
  note: string | null;
}

/** `seen`, sent by a screen: a person saw payments up to here. */
export interface Seen {
  /** The last one that they saw, or any later position. It counts for what this screen was sent, and on which channels. */
  position: Position;
}

/** How soon somebody should look. */
export type Severity = "info" | "warning" | "critical";

/** `signed_out`: the token is no longer good; the connection closes after it. */
export interface SignedOut {
  reason: SignedOutReason;
}

/** Why a screen was signed out. */
export type SignedOutReason = "expired" | "revoked" | "unverifiable";

/**
 * `snapshot`: a part of the state of a channel. The position at which it is true follows it: entries up to there came
 * before, entries after it follow, and nothing comes between its parts but heartbeats.
 */
export interface Snapshot {
  channel: Channel;
  /** Which part this is, of how many: `[1, 3]` is the first of three. */
  of: [number, number];
  /** What the table of topics says of this topic, an item each. */
  state: unknown[];
}

/** Why a position cannot be served. */
export type SnapshotReason = "expired" | "diverged";

/** `snapshot_required`: the position cannot be served. Fetch `GET /v1/snapshot` and go on from the position there. */
export interface SnapshotRequired {
  reason: SnapshotReason;
  /** The oldest position that could be served, if any. */
  oldest: Position | null;
}

/** A member of staff, or a machine that acts for the merchant. */
export type StaffId = string;

/** The level of a variant at an outlet is now another. */
export interface StockChanged {
  outlet: OutletId;
  variant: VariantId;
  sku: string;
  name: string;
  /** What is there now. */
  on_hand: Quantity;
  /** By how much it changed; negative for what left. */
  change: Quantity;
  reason: StockReason;
  /** The document that moved it: a sale, a delivery, a count. */
  document: string | null;
}

/** Why stock moved. */
export type StockReason = "sale" | "received" | "counted" | "lost";

/**
 * What open sales have reserved of some variants at an outlet is now something else. None of it has moved: what is there to
 * be sold is what is on hand, less this.
 */
export interface StockReserved {
  outlet: OutletId;
  /** The sale that reserved it, or has let go of it. */
  sale: SaleId;
  /** Each variant once. */
  levels: Array<ReservedLevel>;
}

/** How a sale was paid, or a part of it. */
export interface Tender {
  payment: PaymentId;
  method: Method;
  /** What it pays of the sale. */
  amount_minor: number;
  /** What was handed over; more than the amount only for cash. */
  tendered_minor: number;
  /** What was given back. */
  change_minor: number;
}

/** `token_expiring`: send `auth` with a fresh token within so many seconds. */
export interface TokenExpiring {
  seconds: number;
}

/** A variant of a product: what is priced, stocked and sold. */
export type VariantId = string;

/** A variant, as an event or a snapshot shows it. */
export interface VariantState {
  variant: VariantId;
  sku: string;
  /** What tells it from the product's other variants, if it has any. */
  name: string | null;
  /** Its price for one unit. */
  price_minor: number;
  barcodes: Array<string>;
}

/** How much of an event is seen. Each is more than the one before. */
export type View = "display" | "till" | "office";

/** Why an open sale came to nothing. */
export type VoidReason = "voided" | "expired";

/** What a gateway sends besides events. */
export interface Packets {
  ready: (body: Ready, position: Position) => void;
  caught_up: (body: CaughtUp, position: Position) => void;
  snapshot: (body: Snapshot, position: Position) => void;
  position: (body: Moved, position: Position) => void;
  snapshot_required: (body: SnapshotRequired) => void;
  snapshot_denied: (body: Denied) => void;
  presence: (body: Presence) => void;
  signed_out: (body: SignedOut) => void;
  token_expiring: (body: TokenExpiring) => void;
  draining: (body: Draining) => void;
}

/** What a screen sends, each with an acknowledgement. */
export interface ClientEvents {
  join: (body: Join, acknowledge: (answer: Joined | Acknowledged) => void) => void;
  leave: (body: Leave, acknowledge: (answer: Joined | Acknowledged) => void) => void;
  auth: (body: Auth, acknowledge: (answer: Joined | Acknowledged) => void) => void;
  seen: (body: Seen, acknowledge: (answer: Acknowledged) => void) => void;
}

/** The most channels that one screen may have joined. */
export const CHANNELS_MAX = 64;

/** The data of every type of event, whole, as the office sees it. */
export interface Payloads {
  "sale.opened": SaleOpened;
  "sale.completed": SaleCompleted;
  "sale.voided": SaleVoided;
  "payment.captured": PaymentCaptured;
  "payment.changed": PaymentChanged;
  "refund.changed": RefundChanged;
  "stock.changed": StockChanged;
  "stock.reserved": StockReserved;
  "product.changed": ProductChanged;
  "outlet.opened": OutletOpened;
  "register.enrolled": RegisterEnrolled;
  "access.revoked": AccessRevoked;
  "alert.raised": AlertRaised;
}

/** What each view hears, and which fields of an event's data it sees: the listed ones, or with `null` all. */
export const VIEWS = {
  display: {
    "sale.opened": ["sale", "number", "currency", "total_minor", "lines.variant", "lines.name", "lines.quantity", "lines.total_minor", "expires_at"],
    "sale.completed": ["sale", "number", "business_date", "currency", "total_minor", "lines.variant", "lines.name", "lines.quantity", "lines.total_minor"],
    "sale.voided": ["sale", "number", "reason"],
    "stock.changed": ["variant", "sku", "name", "on_hand", "change", "reason"],
    "stock.reserved": ["levels.variant", "levels.sku", "levels.name", "levels.reserved", "levels.change"],
    "product.changed": ["product", "name", "department", "category", "brand", "package", "currency", "active", "version", "variants.variant", "variants.sku", "variants.name", "variants.price_minor", "variants.barcodes"],
    "outlet.opened": ["outlet", "code", "name", "time_zone"],
    "register.enrolled": ["register", "code", "name"],
  },
  till: {
    "sale.opened": ["sale", "number", "currency", "subtotal_minor", "discount_minor", "total_minor", "lines.line", "lines.variant", "lines.sku", "lines.name", "lines.quantity", "lines.unit_price_minor", "lines.discount_minor", "lines.total_minor", "tenders.payment", "tenders.method", "tenders.amount_minor", "tenders.change_minor", "due_minor", "expires_at"],
    "sale.completed": ["sale", "number", "business_date", "currency", "subtotal_minor", "discount_minor", "total_minor", "lines.line", "lines.variant", "lines.sku", "lines.name", "lines.quantity", "lines.unit_price_minor", "lines.discount_minor", "lines.total_minor", "tenders.payment", "tenders.method", "tenders.amount_minor", "tenders.change_minor"],
    "sale.voided": ["sale", "number", "currency", "total_minor", "reason", "note"],
    "payment.captured": ["payment", "sale", "method", "currency", "amount_minor", "tendered_minor", "change_minor", "due_minor"],
    "payment.changed": ["payment", "sale", "provider", "method", "bank", "currency", "amount_minor", "state", "shown", "expires_at", "failure", "forced", "accepted_for"],
    "refund.changed": ["refund", "payment", "sale", "currency", "amount_minor", "state", "failure", "refunded_minor"],
    "stock.changed": ["variant", "sku", "name", "on_hand", "change", "reason"],
    "stock.reserved": ["levels.variant", "levels.sku", "levels.name", "levels.reserved", "levels.change"],
    "product.changed": ["product", "name", "department", "category", "brand", "package", "currency", "active", "version", "variants.variant", "variants.sku", "variants.name", "variants.price_minor", "variants.barcodes"],
    "outlet.opened": ["outlet", "code", "name", "time_zone"],
    "register.enrolled": ["register", "code", "name"],
  },
  office: {
    "sale.opened": null,
    "sale.completed": null,
    "sale.voided": null,
    "payment.captured": null,
    "payment.changed": null,
    "refund.changed": null,
    "stock.changed": null,
    "stock.reserved": null,
    "product.changed": null,
    "outlet.opened": null,
    "register.enrolled": null,
    "access.revoked": null,
    "alert.raised": null,
  },
} as const;

/**
 * The table of topics: what happens in each, what a snapshot of it holds, the fields by which only the latest
 * value counts, how far its channels narrow, and who may join.
 */
export const TOPICS = {
  sales: {
    about: "Sales as they are opened, completed and voided.",
    events: ["sale.opened", "sale.completed", "sale.voided"],
    latest_by: null,
    narrows: "register",
    roles: ["owner", "manager", "cashier", "accountant", "auditor", "display"],
    snapshot: "The day's count and total of completed sales for each outlet.",
  },
  payments: {
    about: "Money that arrived, payments on their way, and money that goes back.",
    events: ["payment.captured", "payment.changed", "refund.changed"],
    latest_by: null,
    narrows: "register",
    roles: ["owner", "manager", "cashier", "accountant", "auditor"],
    snapshot: "The day's count and amount of payments for each outlet and method.",
  },
  stock: {
    about: "Levels of stock, and what of them is reserved.",
    events: ["stock.changed", "stock.reserved"],
    latest_by: ["outlet", "data.variant"],
    narrows: "outlet",
    roles: ["owner", "manager", "cashier", "clerk", "accountant", "auditor", "display"],
    snapshot: "The level of every variant that the outlet has ever stocked, and what of it is reserved.",
  },
  catalog: {
    about: "Products, their variants, barcodes and prices.",
    events: ["product.changed"],
    latest_by: ["data.product"],
    narrows: "no",
    roles: ["owner", "manager", "cashier", "clerk", "accountant", "auditor", "display"],
    snapshot: "Every product.",
  },
  outlets: {
    about: "Outlets and their registers.",
    events: ["outlet.opened", "register.enrolled"],
    latest_by: null,
    narrows: "outlet",
    roles: ["owner", "manager", "cashier", "clerk", "accountant", "auditor", "display"],
    snapshot: "Every outlet with its registers.",
  },
  access: {
    about: "Who may no longer act or listen. Gateways obey it whether or not a screen listens.",
    events: ["access.revoked"],
    latest_by: null,
    narrows: "no",
    roles: ["owner", "auditor"],
    snapshot: null,
  },
  alerts: {
    about: "What a person should look at.",
    events: ["alert.raised"],
    latest_by: null,
    narrows: "register",
    roles: ["owner", "manager", "accountant", "auditor"],
    snapshot: null,
  },
  presence: {
    about: "Who is at an outlet, by their screens. No events: `presence`, without a position, and never replayed.",
    events: [],
    latest_by: null,
    narrows: "outlet",
    roles: ["owner", "manager", "cashier", "clerk", "auditor"],
    snapshot: null,
  },
} as const;

/** A type of event. */
export type EventType = keyof Payloads;

/** The types of event that a view hears. */
export type Heard<V extends View = "office"> = keyof (typeof VIEWS)[V] & EventType;

/** What a view sees of an event's data. */
export type Data<T extends EventType, V extends View = "office"> = T extends keyof (typeof VIEWS)[V]
  ? (typeof VIEWS)[V][T] extends readonly (infer Path extends string)[]
    ? Shown<Payloads[T], Path>
    : Payloads[T]
  : never;

/** What is left of `T` when only some paths are shown. A path into a list applies to each of its items. */
export type Shown<T, Path extends string> = T extends readonly (infer Item)[]
  ? Shown<Item, Path>[]
  : T extends object
    ? { [K in keyof T as K extends Path | Head<Path> ? K : never]: K extends Path ? T[K] : Shown<T[K], Tail<Path, K>> }
    : T;

type Head<Path extends string> = Path extends `${infer Name}.${string}` ? Name : Path;
type Tail<Path extends string, K> = Path extends `${K & string}.${infer Rest}` ? Rest : never;

/** Any event that a view hears, told apart by `type`. */
export type AnyEnvelope<V extends View = "office"> = { [T in Heard<V>]: Envelope<T, V> }[Heard<V>];

/** What a gateway sends to a screen: each event under its type, with its position, and the other packets. */
export type ServerEvents<V extends View = "office"> = Packets & {
  [T in Heard<V>]: (event: Envelope<T, V>, position: Position) => void;
};

/** A family of events; alone, or narrowed as in `stock/{outlet}`, it names a channel. */
export type Topic = keyof typeof TOPICS;
