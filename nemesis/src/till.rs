//! A till: does one thing after the other, and repeats each with the same key until it knows what became of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tillwire_channels::{OutletId, RegisterId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::checker::{Deed, Outcome};
use crate::http::{Answer, request};
use crate::shop::{PRICE_MINOR, Product, Shop};

/// How long it waits for an answer; then it hangs up and asks again.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// How long it goes on asking. Whatever breaks is mended earlier.
const KNOWN_MAX: Duration = Duration::from_secs(180);
const AGAIN_MS: std::ops::Range<u64> = 20..300;
/// What comes in a lorry: its entry is larger than what buses carry.
const LORRY_LINES: usize = 260;

pub struct Till {
    pub shop: Arc<Shop>,
    pub api: SocketAddr,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub seed: u64,
    /// Between one thing and the next, on average.
    pub pause: Duration,
}

/// Something to be done once.
struct Wish {
    what: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    mark: String,
}

impl Till {
    /// Works until it is closing time, and finishes what it has begun. `count` is raised by each that is known.
    pub async fn works(self, closing: watch::Receiver<bool>, count: impl Fn()) -> Vec<Deed> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut deeds = Vec::new();
        while !*closing.borrow() {
            let wish = self.wish(&mut rng);
            deeds.push(self.does(wish, &mut rng).await);
            count();
            sleep(self.pause.mul_f64(2.0 * rng.f64())).await;
        }
        deeds
    }

    async fn does(&self, wish: Wish, rng: &mut fastrand::Rng) -> Deed {
        let key = uuid(rng).to_string();
        let (bearer, began) = (format!("Bearer {}", self.shop.owner), Instant::now());
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", key.as_str()),
            ("content-type", "application/json"),
        ];
        let Wish { what, method, path, body, mark } = wish;
        let body = body.to_string();
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let asked = request(self.api, method, &path, &headers, body.clone());
            let last = match timeout(ANSWER_MAX, asked).await {
                Ok(Ok(Answer { status: 200..300, position, .. })) => break Outcome::Done { position },
                // Its twin is at it, or too much is going on: nothing is said of the outcome.
                Ok(Ok(Answer { status: status @ (408 | 429 | 500..), body, .. })) => format!("{status} {body}"),
                Ok(Ok(Answer { status: 409, body, .. })) if body.contains("request_in_flight") => body,
                Ok(Ok(Answer { status, body, .. })) => break Outcome::Refused { status, text: body },
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer within {ANSWER_MAX:?}"),
            };
            if began.elapsed() > KNOWN_MAX {
                break Outcome::Unknown { last };
            }
            sleep(Duration::from_millis(rng.u64(AGAIN_MS))).await;
        };
        Deed { key, what, mark, outcome, tries }
    }

    fn wish(&self, rng: &mut fastrand::Rng) -> Wish {
        match rng.u32(0..1_000) {
            0..760 => self.sale(rng, "sale", 1),
            760..780 => self.sale(rng, "sale of more than there is", 9_000_000),
            780..880 => self.delivery(rng, "delivery", 5),
            880..900 => self.delivery(rng, "lorry", LORRY_LINES),
            900..960 => self.loss(rng),
            960..997 => self.new_name(rng),
            _ => self.new_register(rng),
        }
    }

    /// A sale of some things, paid in one way or in two.
    fn sale(&self, rng: &mut fastrand::Rng, what: &'static str, quantity: i64) -> Wish {
        let (sale, many) = (uuid(rng), rng.usize(1..6));
        let variants = rng.choose_multiple(self.shop.variants(), many);
        let lines = variants.iter().map(|variant| json!({ "variant": variant, "quantity": quantity.to_string() }));
        let total = PRICE_MINOR * quantity * i64::try_from(variants.len()).unwrap_or_default();
        let lines: Vec<Value> = lines.collect();
        let tenders = match rng.bool() {
            true => json!([{ "method": "cash", "amount_minor": total, "tendered_minor": total + 500 }]),
            false => json!([
                { "method": "qris", "amount_minor": total - 1_000 },
                { "method": "cash", "amount_minor": 1_000 },
            ]),
        };
        let body = json!({ "id": sale, "register": self.register, "lines": lines, "tenders": tenders });
        let path = format!("/v1/outlets/{}/sales", self.outlet);
        Wish { what, method: "POST", path, body, mark: sale.to_string() }
    }

    fn delivery(&self, rng: &mut fastrand::Rng, what: &'static str, lines: usize) -> Wish {
        self.moves(rng, what, "received", lines)
    }

    fn loss(&self, rng: &mut fastrand::Rng) -> Wish {
        self.moves(rng, "loss", "lost", 2)
    }

    fn moves(&self, rng: &mut fastrand::Rng, what: &'static str, reason: &str, lines: usize) -> Wish {
        let document = uuid(rng);
        let variants = rng.choose_multiple(self.shop.variants(), lines);
        let lines: Vec<Value> =
            variants.iter().map(|variant| json!({ "variant": variant, "quantity": "2.5" })).collect();
        let body = json!({ "reason": reason, "document": document, "lines": lines });
        let path = format!("/v1/outlets/{}/stock/moves", self.outlet);
        Wish { what, method: "POST", path, body, mark: document.to_string() }
    }

    /// Another name for a product; nothing else of it changes.
    fn new_name(&self, rng: &mut fastrand::Rng) -> Wish {
        let Product { id, sku, variants } = &self.shop.products[rng.usize(0..self.shop.products.len())];
        let name = format!("Roti {}", uuid(rng));
        let first = json!({ "id": variants[0], "sku": sku, "name": "0", "price_minor": PRICE_MINOR });
        let body = json!({ "name": name, "variants": [first] });
        Wish { what: "product", method: "PUT", path: format!("/v1/products/{id}"), body, mark: name }
    }

    fn new_register(&self, rng: &mut fastrand::Rng) -> Wish {
        let id = uuid(rng);
        let code = id.simple().to_string()[..12].to_uppercase();
        let body = json!({ "id": id, "code": code, "name": "Kasir" });
        let path = format!("/v1/outlets/{}/registers", self.outlet);
        Wish { what: "register", method: "POST", path, body, mark: id.to_string() }
    }
}

/// The next one that the seed has in store.
fn uuid(rng: &mut fastrand::Rng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}
