//! Opening the shop, through the API: merchant, outlets, registers, staff, catalogue, opening stock.
//!
//! Each write has a key of its own that is always the same. A setup that was cut off is simply done again: the hub
//! answers what it has done before, and does the rest.

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tillwire_channels::Quantity;

use super::api::{Api, Failure};
use super::progress::Terminal;
use super::shelves::Shelves;
use super::shop::{CURRENCY, NAME, OUTLETS, REGISTERS, Shop, Who};
use super::year::{Product, Year};

/// How many lines of stock are bought in at once. An entry must stay below the journal's limit.
const STOCK_LINES_MAX: usize = 400;

/// What the hub says of an import.
#[derive(Debug, Deserialize)]
struct Imported {
    created: usize,
    changed: usize,
    results: Vec<ImportResult>,
}

#[derive(Debug, Deserialize)]
struct ImportResult {
    index: usize,
    status: String,
    #[serde(default)]
    errors: Vec<Value>,
}

/// Opens everything that a sale needs.
pub async fn open(api: &Api, shop: &Shop, year: &Year, terminal: &Terminal) -> anyhow::Result<()> {
    let registers = OUTLETS.len() * REGISTERS;
    terminal.say(&format!("Opening {NAME}: {} outlets, {registers} registers …", OUTLETS.len()));
    places(api, shop).await.context("opening the outlets")?;
    terminal.say(&format!("Importing {} products …", year.products.len()));
    catalog(api, shop, year).await.context("importing the catalogue")?;
    let shelves = Shelves::full(year);
    let lines: usize = (0..OUTLETS.len()).map(|outlet| shelves.opening(outlet).len()).sum();
    terminal.say(&format!("Buying in {lines} lines of stock …"));
    let outlets = (0..OUTLETS.len()).map(|outlet| opening_stock(api, shop, year, &shelves, outlet));
    futures_util::future::try_join_all(outlets).await.context("buying in the opening stock")?;
    Ok(())
}

async fn places(api: &Api, shop: &Shop) -> anyhow::Result<()> {
    let owner = shop.bearer(Who::Owner);
    let post = async |path: &str, key: String, body: Value| done(api.post(&owner, path, &key, &body).await);
    post("/v1/merchant", "merchant".to_owned(), json!({ "name": NAME, "currency": CURRENCY })).await?;
    for (at, outlet) in OUTLETS.iter().enumerate() {
        let id = shop.outlet(at);
        let body = json!({ "id": id, "code": outlet.code, "name": outlet.name, "time_zone": outlet.time_zone });
        post("/v1/outlets", format!("outlet-{}", outlet.code), body).await?;
        for till in 0..REGISTERS {
            let (code, name) = (format!("R{}", till + 1), format!("Kasir {}", till + 1));
            let body = json!({ "id": shop.register(at, till), "code": code, "name": name });
            post(&format!("/v1/outlets/{id}/registers"), format!("register-{}-{code}", outlet.code), body).await?;
        }
    }
    for (who, name) in Shop::staff() {
        let bearer = shop.bearer(who);
        let body = json!({ "id": bearer.staff, "name": name, "role": bearer.role });
        post("/v1/staff", format!("staff-{}", bearer.staff), body).await?;
    }
    Ok(())
}

async fn catalog(api: &Api, shop: &Shop, year: &Year) -> anyhow::Result<()> {
    let items: Vec<Value> = year.products.iter().map(|product| item(shop, product)).collect();
    let manager = shop.bearer(Who::Manager);
    let answer = match api.post(&manager, "/v1/products/import", "catalog", &json!({ "items": items })).await {
        Err(failure) if failure.is_done_already() => return Ok(()),
        answer => answer?,
    };
    let imported: Imported = serde_json::from_value(answer).context("reading the import's results")?;
    if let Some(refused) = imported.results.iter().find(|result| result.status == "refused") {
        bail!("{} was refused: {:?}", items[refused.index], refused.errors);
    }
    let put = imported.created + imported.changed;
    if (put, imported.results.len()) != (items.len(), items.len()) {
        bail!("{put} of {} products were put, with {} results", items.len(), imported.results.len());
    }
    Ok(())
}

fn item(shop: &Shop, product: &Product) -> Value {
    let record = &product.record;
    json!({
        "id": shop.product(&record.number),
        "name": product.name(),
        "department": record.department,
        "category": record.category,
        "brand": record.brand,
        "package": record.package,
        "active": product.price_minor.is_some(),
        "variants": [{
            "id": shop.variant(&record.number),
            "sku": record.number,
            "price_minor": product.price_minor.unwrap_or(0),
        }],
    })
}

async fn opening_stock(api: &Api, shop: &Shop, year: &Year, shelves: &Shelves, outlet: usize) -> Result<(), Failure> {
    for (number, lines) in shelves.opening(outlet).chunks(STOCK_LINES_MAX).enumerate() {
        receive(api, shop, year, outlet, &format!("opening-{}-{number}", OUTLETS[outlet].code), lines).await?;
    }
    Ok(())
}

/// Takes in a delivery at an outlet, once.
pub async fn receive(
    api: &Api,
    shop: &Shop,
    year: &Year,
    outlet: usize,
    key: &str,
    load: &[(usize, Quantity)],
) -> Result<(), Failure> {
    let line = |(product, quantity): &(usize, Quantity)| json!({ "variant": shop.variant(&year.products[*product].record.number), "quantity": quantity });
    let body = json!({ "reason": "received", "lines": load.iter().map(line).collect::<Vec<Value>>() });
    let path = format!("/v1/outlets/{}/stock/moves", shop.outlet(outlet));
    done(api.post(&shop.bearer(Who::Clerk(outlet)), &path, key, &body).await)
}

/// What was done by an earlier run is done.
pub fn done(answer: Result<Value, Failure>) -> Result<(), Failure> {
    match answer {
        Err(failure) if !failure.is_done_already() => Err(failure),
        _ => Ok(()),
    }
}
