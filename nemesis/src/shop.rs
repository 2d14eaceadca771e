//! A shop: what its tills sell, and who watches.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tillwire_channels::{MerchantId, OutletId, ProductId, RegisterId, Role, Topic, VariantId};
use uuid::Uuid;

use crate::http::request;
use crate::line::Transport;
use crate::record::{Memory, Who};
use crate::screen::Manner;

pub const PRICE_MINOR: i64 = 7_500;
/// More than are ever sold.
pub const ON_HAND: &str = "1000000";
const PRODUCTS: usize = 6;
/// As many as a product may have, so that what tells of it is not small.
const VARIANTS: usize = 50;
const REGISTERS: usize = 2;

/// Someone who needs a token.
#[derive(Clone, Debug)]
pub struct Person {
    pub merchant: MerchantId,
    pub role: Role,
    pub outlets: Vec<OutletId>,
    pub register: Option<RegisterId>,
}

/// Makes tokens that outlast the run.
pub type Mint<'a> = &'a dyn Fn(&Person) -> Result<String>;

#[derive(Clone, Debug)]
pub struct Shop {
    pub merchant: MerchantId,
    pub owner: String,
    pub outlets: Vec<Outlet>,
    pub products: Vec<Product>,
}

#[derive(Clone, Debug)]
pub struct Outlet {
    pub id: OutletId,
    pub registers: Vec<RegisterId>,
}

#[derive(Clone, Debug)]
pub struct Product {
    pub id: ProductId,
    pub sku: String,
    pub variants: Vec<VariantId>,
}

impl Shop {
    /// Opens a shop of two outlets, with two tills and three hundred things to sell in each. Nothing may be broken yet.
    pub async fn open(api: SocketAddr, number: usize, mint: Mint<'_>) -> Result<Self> {
        let merchant = MerchantId::new();
        let owner = mint(&Person { merchant, role: Role::Owner, outlets: Vec::new(), register: None })?;
        let mut shop = Self { merchant, owner, outlets: Vec::new(), products: Vec::new() };
        shop.creates(api, "/v1/merchant", json!({ "name": format!("Toko {number}"), "currency": "IDR" })).await?;
        for name in ["A", "B"] {
            let outlet = Outlet { id: OutletId::new(), registers: (0..REGISTERS).map(|_| RegisterId::new()).collect() };
            let body = json!({ "id": outlet.id, "code": name, "name": name, "time_zone": "Asia/Jakarta" });
            shop.creates(api, "/v1/outlets", body).await?;
            for (at, register) in outlet.registers.iter().enumerate() {
                let body = json!({ "id": register, "code": format!("R{at}"), "name": format!("Kasir {at}") });
                shop.creates(api, &format!("/v1/outlets/{}/registers", outlet.id), body).await?;
            }
            shop.outlets.push(outlet);
        }
        for at in 0..PRODUCTS {
            let variants: Vec<VariantId> = (0..VARIANTS).map(|_| VariantId::new()).collect();
            let product = Product { id: ProductId::new(), sku: format!("ROTI-{at}-0"), variants };
            let named = product.variants.iter().enumerate().map(|(number, id)| {
                json!({ "id": id, "sku": format!("ROTI-{at}-{number}"), "name": format!("{number}"), "price_minor": PRICE_MINOR })
            });
            let named: Vec<Value> = named.collect();
            shop.creates(api, "/v1/products", json!({ "id": product.id, "name": "Roti", "variants": named })).await?;
            shop.products.push(product);
        }
        for outlet in &shop.outlets {
            let lines: Vec<Value> =
                shop.variants().map(|variant| json!({ "variant": variant, "quantity": ON_HAND })).collect();
            let body = json!({ "reason": "received", "lines": lines });
            shop.creates(api, &format!("/v1/outlets/{}/stock/moves", outlet.id), body).await?;
        }
        Ok(shop)
    }

    pub fn variants(&self) -> impl Iterator<Item = VariantId> {
        self.products.iter().flat_map(|product| product.variants.iter().copied())
    }

    async fn creates(&self, api: SocketAddr, path: &str, body: Value) -> Result<()> {
        let (bearer, key) = (format!("Bearer {}", self.owner), Uuid::new_v4().to_string());
        let headers = [
            ("authorization", bearer.as_str()),
            ("idempotency-key", key.as_str()),
            ("content-type", "application/json"),
        ];
        let answer = request(api, "POST", path, &headers, body.to_string()).await?;
        ensure!(answer.status == 201, "{path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// So many who watch, of every kind in turn. `start` is where the journal stands.
    pub fn audience(
        &self,
        shop: usize,
        many: usize,
        doors: &[SocketAddr],
        start: &str,
        seed: u64,
        mint: Mint<'_>,
    ) -> Result<Vec<Manner>> {
        let kinds = self.kinds();
        (0..many)
            .map(|number| {
                let kind = &kinds[number % kinds.len()];
                let Kind { role, outlets, register, .. } = kind.clone();
                let token = mint(&Person { merchant: self.merchant, role, outlets, register })?;
                let name = format!("shop {} screen {} ({})", shop + 1, number + 1, kind.name);
                let (view, channels) = (kind.role.view(), kind.channels.clone());
                Ok(Manner {
                    who: Who { name, shop, view, channels, memory: kind.memory },
                    token,
                    door: doors[(number + shop) % doors.len()],
                    transport: kind.transport,
                    bytes_per_second: kind.bytes_per_second,
                    wanders: kind.wanders.clone(),
                    after: kind.from_the_start.then(|| start.to_owned()),
                    seed: seed.wrapping_add((shop * 1_000 + number) as u64),
                })
            })
            .collect()
    }

    fn kinds(&self) -> Vec<Kind> {
        let [near, far] = [&self.outlets[0], &self.outlets[1]];
        let all = || ["sales", "payments", "stock", "catalog", "outlets", "access"].map(str::to_owned).to_vec();
        let of = |topics: &[Topic]| topics.iter().map(|topic| topic.everywhere().to_string()).collect::<Vec<_>>();
        let owner = Kind {
            name: "owner",
            role: Role::Owner,
            outlets: Vec::new(),
            register: None,
            channels: all(),
            memory: Memory::Protocol,
            transport: Transport::WebSocket,
            bytes_per_second: None,
            wanders: Vec::new(),
            from_the_start: false,
        };
        let till = near.registers[0];
        let own = [Topic::Sales.at(near.id).by(till), Topic::Payments.at(near.id).by(till), Topic::Stock.at(near.id)];
        let everywhere = [Topic::Stock.at(near.id), Topic::Stock.at(far.id), Topic::Catalog.everywhere()];
        let wanders = [&everywhere[..], &[Topic::Payments.everywhere(), Topic::Sales.at(far.id)]].concat();
        let wanders: Vec<String> = wanders.iter().map(ToString::to_string).collect();
        vec![
            owner.clone(),
            Kind { name: "owner, upgrading", transport: Transport::Upgrade, from_the_start: true, ..owner.clone() },
            Kind {
                name: "cashier, upgrading",
                role: Role::Cashier,
                outlets: vec![near.id],
                register: Some(till),
                channels: own.iter().map(ToString::to_string).chain(of(&[Topic::Catalog])).collect(),
                transport: Transport::Upgrade,
                ..owner.clone()
            },
            Kind {
                name: "display, polling",
                role: Role::Display,
                channels: of(&[Topic::Sales, Topic::Stock, Topic::Catalog]),
                transport: Transport::Polling,
                ..owner.clone()
            },
            Kind {
                name: "auditor, by after",
                role: Role::Auditor,
                memory: Memory::Application,
                from_the_start: true,
                ..owner.clone()
            },
            Kind {
                name: "manager, wandering",
                role: Role::Manager,
                channels: of(&[Topic::Sales]),
                wanders: wanders.clone(),
                ..owner.clone()
            },
            Kind {
                name: "clerk, forgetful",
                role: Role::Clerk,
                outlets: vec![far.id],
                channels: vec![Topic::Stock.at(far.id).to_string()],
                memory: Memory::Forgetful,
                transport: Transport::Upgrade,
                ..owner.clone()
            },
            Kind { name: "owner, slow", bytes_per_second: Some(2_000), ..owner.clone() },
            Kind {
                name: "accountant, polling",
                role: Role::Accountant,
                channels: vec![Topic::Payments.at(far.id).to_string()],
                transport: Transport::Polling,
                ..owner.clone()
            },
            Kind {
                name: "manager, wandering and upgrading",
                role: Role::Manager,
                channels: of(&[Topic::Payments]),
                wanders: wanders.into_iter().filter(|channel| channel != "payments").collect(),
                transport: Transport::Upgrade,
                ..owner.clone()
            },
            Kind {
                name: "display, slow",
                role: Role::Display,
                channels: of(&[Topic::Stock]),
                bytes_per_second: Some(1_000),
                ..owner
            },
        ]
    }
}

#[derive(Clone)]
struct Kind {
    name: &'static str,
    role: Role,
    outlets: Vec<OutletId>,
    register: Option<RegisterId>,
    channels: Vec<String>,
    memory: Memory,
    transport: Transport,
    bytes_per_second: Option<u32>,
    wanders: Vec<String>,
    from_the_start: bool,
}
