//! Sales: what a till rings up, completed in one transaction.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{Method, PaymentCaptured, SaleCompleted, SaleLine, StockReason, Tender};
use tillwire_channels::{
    Event, MerchantId, Moment, OutletId, PaymentId, Quantity, RegisterId, SaleId, StaffId, VariantId,
};
use utoipa::ToSchema;

use super::catalog::{self, Priced};
use super::money::{AMOUNT_MAX_MINOR, allocate, extend};
use super::outlets;
use super::stock::{self, Change, Movement, Named};
use super::{decimal, quantity};
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// The most lines of a sale: with names and all, its entry stays below the journal's limit.
pub const LINES_MAX: usize = 200;
/// The most tenders of a sale.
pub const TENDERS_MAX: usize = 10;
/// The most sales that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// A sale as the till hands it in.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The receipt's number, if the till has its own series.
    pub number: Option<String>,
    pub occurred_at: Option<Moment>,
    pub lines: Vec<DraftLine>,
    /// A discount on the whole sale.
    pub discount_minor: i64,
    pub tenders: Vec<DraftTender>,
}

#[derive(Clone, Debug)]
pub struct DraftLine {
    pub variant: VariantId,
    pub quantity: Quantity,
    /// The price that the till showed; refused if it is no longer the price.
    pub unit_price_minor: Option<i64>,
    pub discount_minor: i64,
}

#[derive(Clone, Debug)]
pub struct DraftTender {
    pub id: PaymentId,
    pub method: Method,
    pub amount_minor: i64,
    /// What was handed over, if more than the amount.
    pub tendered_minor: Option<i64>,
}

/// A completed sale, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleView {
    pub id: SaleId,
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The day it counts for at the outlet, as `YYYY-MM-DD`.
    pub business_date: String,
    pub currency: String,
    pub lines: Vec<SaleLine>,
    pub subtotal_minor: i64,
    pub discount_minor: i64,
    pub total_minor: i64,
    pub tenders: Vec<Tender>,
    pub actor: StaffId,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
}

/// Completes a sale: takes its lines from stock, records its tenders and tells the merchant.
pub async fn complete(tx: &mut MerchantTx, draft: Draft) -> Result<SaleView> {
    let occurred_at = draft.occurred_at.unwrap_or(tx.now());
    let place = Place::lock(tx, &draft, occurred_at).await?;
    let prices = catalog::prices(tx, draft.lines.iter().map(|line| line.variant)).await?;
    let rung = ring_up(&draft, &prices)?;
    let sale = SaleView {
        id: draft.id,
        number: draft.number.clone().unwrap_or(place.number),
        outlet: draft.outlet,
        register: draft.register,
        business_date: place.business_date.to_string(),
        currency: place.currency,
        lines: rung.lines,
        subtotal_minor: rung.subtotal_minor,
        discount_minor: rung.discount_minor,
        total_minor: rung.total_minor,
        tenders: rung.tenders,
        actor: tx.actor(),
        occurred_at,
    };
    insert(tx, &sale, place.business_date).await?;
    // The news first, its consequences after it.
    tx.append(&Event::SaleCompleted(completed(&sale)), occurred_at)?;
    for tender in &sale.tenders {
        tx.append(&Event::PaymentCaptured(captured(&sale, tender)), occurred_at)?;
    }
    let movement = taken(&draft, occurred_at)?;
    let names = prices.into_iter().map(|(id, Priced { sku, name, .. })| (id, Named { sku, name })).collect();
    stock::apply(tx, &movement, &names).await?;
    Ok(sale)
}

/// Where a sale is made: its number, its day, its currency.
struct Place {
    number: String,
    business_date: time::Date,
    currency: String,
}

impl Place {
    /// Locks the register and takes the next number of its series, unless the till brought its own.
    async fn lock(tx: &mut MerchantTx, draft: &Draft, occurred_at: Moment) -> Result<Self> {
        let merchant = tx.merchant();
        let row = sqlx::query!(
            r#"update registers register
               set last_receipt = last_receipt + case when $5 then 0 else 1 end
               from outlets outlet, merchants merchant
               where register.merchant_id = $1 and register.outlet_id = $2 and register.register_id = $3
                 and outlet.merchant_id = $1 and outlet.outlet_id = $2 and merchant.merchant_id = $1
               returning outlet.code as outlet_code, register.code as register_code, last_receipt, currency,
                         ($4::timestamptz at time zone time_zone)::date as "business_date!""#,
            merchant.0,
            draft.outlet.0,
            draft.register.0,
            occurred_at,
            draft.number.is_some(),
        )
        .fetch_optional(tx.sql())
        .await?;
        let Some(row) = row else {
            outlets::get(tx.sql(), merchant, draft.outlet).await?; // If that is what is missing, it says so.
            return Err(Error::invalid("unknown_register", "/register", "This outlet has no such register."));
        };
        Ok(Self {
            number: format!("{}-{}-{:06}", row.outlet_code, row.register_code, row.last_receipt),
            business_date: row.business_date,
            currency: row.currency,
        })
    }
}

/// Lines, totals and tenders that add up.
#[derive(Debug)]
struct RungUp {
    lines: Vec<SaleLine>,
    subtotal_minor: i64,
    discount_minor: i64,
    total_minor: i64,
    tenders: Vec<Tender>,
}

/// Prices the lines, spreads the sale's discount over them, and checks that the tenders pay the total.
fn ring_up(draft: &Draft, prices: &BTreeMap<VariantId, Priced>) -> Result<RungUp> {
    let mut lines = Vec::with_capacity(draft.lines.len());
    for (at, wanted) in draft.lines.iter().enumerate() {
        lines.push(price_line(at, wanted, prices)?);
    }
    let subtotal_minor = sum(lines.iter().map(|line| line.total_minor + line.discount_minor), "/lines")?;
    let before: Vec<i64> = lines.iter().map(|line| line.total_minor).collect();
    let left = sum(before.iter().copied(), "/lines")?;
    if draft.discount_minor > left {
        return Err(Error::invalid(
            "discount_too_large",
            "/discount_minor",
            format!("There is {left} left to discount."),
        ));
    }
    for (line, share) in lines.iter_mut().zip(allocate(draft.discount_minor, &before)) {
        line.discount_minor += share;
        line.total_minor -= share;
    }
    let total_minor = left - draft.discount_minor;
    let tenders = pay(&draft.tenders, total_minor)?;
    Ok(RungUp { lines, subtotal_minor, discount_minor: subtotal_minor - total_minor, total_minor, tenders })
}

fn price_line(at: usize, wanted: &DraftLine, prices: &BTreeMap<VariantId, Priced>) -> Result<SaleLine> {
    let Some(priced) = prices.get(&wanted.variant) else {
        return Err(Error::invalid("unknown_variant", format!("/lines/{at}/variant"), "There is no such variant."));
    };
    if !priced.active {
        return Err(Error::conflict_at(
            "not_for_sale",
            format!("/lines/{at}/variant"),
            "This product is not for sale.",
        ));
    }
    if let Some(shown) = wanted.unit_price_minor
        && shown != priced.price_minor
    {
        let detail = format!("The price is {}, not {shown}.", priced.price_minor);
        return Err(Error::conflict_at("price_changed", format!("/lines/{at}/unit_price_minor"), detail));
    }
    let gross = extend(priced.price_minor, wanted.quantity).ok_or_else(|| {
        Error::invalid("amount_out_of_range", format!("/lines/{at}/quantity"), "The line's amount is out of range.")
    })?;
    if wanted.discount_minor > gross {
        let detail = format!("The line comes to {gross}.");
        return Err(Error::invalid("discount_too_large", format!("/lines/{at}/discount_minor"), detail));
    }
    Ok(SaleLine {
        line: u32::try_from(at + 1)?,
        variant: wanted.variant,
        sku: priced.sku.clone(),
        name: priced.name.clone(),
        quantity: wanted.quantity,
        unit_price_minor: priced.price_minor,
        discount_minor: wanted.discount_minor,
        total_minor: gross - wanted.discount_minor,
    })
}

/// Tenders that pay exactly the total; only cash may be more, and gives change.
fn pay(tenders: &[DraftTender], total_minor: i64) -> Result<Vec<Tender>> {
    let mut paid = Vec::with_capacity(tenders.len());
    for (at, tender) in tenders.iter().enumerate() {
        let tendered_minor = tender.tendered_minor.unwrap_or(tender.amount_minor);
        let change_minor = tendered_minor - tender.amount_minor;
        if change_minor < 0 || (change_minor > 0 && tender.method != Method::Cash) {
            let detail = "Only cash can be more than the amount, and none can be less.";
            return Err(Error::invalid("tendered_mismatch", format!("/tenders/{at}/tendered_minor"), detail));
        }
        paid.push(Tender {
            payment: tender.id,
            method: tender.method,
            amount_minor: tender.amount_minor,
            tendered_minor,
            change_minor,
        });
    }
    let covered = sum(paid.iter().map(|tender| tender.amount_minor), "/tenders")?;
    if covered != total_minor {
        let detail = format!("The tenders come to {covered}, the sale to {total_minor}.");
        return Err(Error::invalid("tenders_mismatch", "/tenders", detail));
    }
    Ok(paid)
}

fn sum(amounts: impl Iterator<Item = i64>, pointer: &str) -> Result<i64> {
    amounts
        .map(i128::from)
        .sum::<i128>()
        .try_into()
        .ok()
        .filter(|total| *total <= AMOUNT_MAX_MINOR)
        .ok_or_else(|| Error::invalid("amount_out_of_range", pointer, "The amounts add up to more than is allowed."))
}

/// What a sale takes from stock: lines of the same variant together.
fn taken(draft: &Draft, occurred_at: Moment) -> Result<Movement> {
    let mut changes: BTreeMap<VariantId, (Change, String)> = BTreeMap::new();
    for (at, line) in draft.lines.iter().enumerate() {
        let pointer = format!("/lines/{at}/quantity");
        let before = match changes.get(&line.variant) {
            Some((Change::By(before), _)) => *before,
            _ => Quantity::ZERO,
        };
        let both = before.checked_add(line.quantity.negated()).ok_or_else(|| {
            Error::invalid(
                "quantity_out_of_range",
                &pointer,
                "The lines of this variant add up to more than is allowed.",
            )
        })?;
        changes.insert(line.variant, (Change::By(both), pointer));
    }
    Ok(Movement { outlet: draft.outlet, reason: StockReason::Sale, document: Some(draft.id.0), occurred_at, changes })
}

async fn insert(tx: &mut MerchantTx, sale: &SaleView, business_date: time::Date) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "insert into sales (merchant_id, sale_id, outlet_id, register_id, number, business_date, currency,
                            subtotal_minor, discount_minor, total_minor, actor_id, occurred_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        merchant.0,
        sale.id.0,
        sale.outlet.0,
        sale.register.0,
        sale.number,
        business_date,
        sale.currency,
        sale.subtotal_minor,
        sale.discount_minor,
        sale.total_minor,
        sale.actor.0,
        sale.occurred_at,
    )
    .execute(tx.sql())
    .await
    .on_constraint("sales_pkey", || Error::conflict_at("sale_exists", "/id", "This sale is recorded already."))
    .on_constraint("sales_number_key", || {
        Error::conflict_at("receipt_number_taken", "/number", "Another sale has this receipt number.")
    })?;
    insert_lines(tx, sale).await?;
    insert_payments(tx, sale).await
}

async fn insert_lines(tx: &mut MerchantTx, sale: &SaleView) -> Result<()> {
    let merchant = tx.merchant();
    let lines: Vec<i32> = sale.lines.iter().map(|line| line.line.cast_signed()).collect();
    let variants: Vec<uuid::Uuid> = sale.lines.iter().map(|line| line.variant.0).collect();
    let skus: Vec<String> = sale.lines.iter().map(|line| line.sku.clone()).collect();
    let names: Vec<String> = sale.lines.iter().map(|line| line.name.clone()).collect();
    let quantities: Vec<_> = sale.lines.iter().map(|line| decimal(line.quantity)).collect();
    let prices: Vec<i64> = sale.lines.iter().map(|line| line.unit_price_minor).collect();
    let discounts: Vec<i64> = sale.lines.iter().map(|line| line.discount_minor).collect();
    let totals: Vec<i64> = sale.lines.iter().map(|line| line.total_minor).collect();
    sqlx::query!(
        "insert into sale_lines (merchant_id, sale_id, line, variant_id, sku, name, quantity, unit_price_minor,
                                 discount_minor, total_minor)
         select $1, $2, * from unnest($3::int[], $4::uuid[], $5::text[], $6::text[], $7::numeric[], $8::bigint[],
                                      $9::bigint[], $10::bigint[])",
        merchant.0,
        sale.id.0,
        &lines,
        &variants,
        &skus,
        &names,
        &quantities,
        &prices,
        &discounts,
        &totals,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn insert_payments(tx: &mut MerchantTx, sale: &SaleView) -> Result<()> {
    let merchant = tx.merchant();
    let ids: Vec<uuid::Uuid> = sale.tenders.iter().map(|tender| tender.payment.0).collect();
    let places: Vec<i32> = (1..).take(ids.len()).collect();
    let methods: Vec<String> = sale.tenders.iter().map(|tender| tender.method.as_str().to_owned()).collect();
    let amounts: Vec<i64> = sale.tenders.iter().map(|tender| tender.amount_minor).collect();
    let tendered: Vec<i64> = sale.tenders.iter().map(|tender| tender.tendered_minor).collect();
    let change: Vec<i64> = sale.tenders.iter().map(|tender| tender.change_minor).collect();
    sqlx::query!(
        "insert into payments (merchant_id, sale_id, captured_at, payment_id, place, method, amount_minor,
                               tendered_minor, change_minor)
         select $1, $2, $3, * from unnest($4::uuid[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])",
        merchant.0,
        sale.id.0,
        sale.occurred_at,
        &ids,
        &places,
        &methods,
        &amounts,
        &tendered,
        &change,
    )
    .execute(tx.sql())
    .await
    .on_constraint("payments_pkey", || {
        Error::conflict_at("payment_exists", "/tenders", "One of these payments is recorded already.")
    })?;
    Ok(())
}

/// One sale.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<SaleView> {
    let row = sqlx::query!(
        "select outlet_id, register_id, number, business_date, currency, subtotal_minor, discount_minor, total_minor,
                actor_id, occurred_at
         from sales where merchant_id = $1 and sale_id = $2",
        merchant.0,
        sale.0,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("sale"))?;
    Ok(SaleView {
        id: sale,
        number: row.number,
        outlet: OutletId(row.outlet_id),
        register: RegisterId(row.register_id),
        business_date: row.business_date.to_string(),
        currency: row.currency,
        lines: lines(sql, merchant, sale).await?,
        subtotal_minor: row.subtotal_minor,
        discount_minor: row.discount_minor,
        total_minor: row.total_minor,
        tenders: tenders(sql, merchant, sale).await?,
        actor: StaffId(row.actor_id),
        occurred_at: row.occurred_at,
    })
}

async fn lines(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<Vec<SaleLine>> {
    let rows = sqlx::query!(
        "select line, variant_id, sku, name, quantity, unit_price_minor, discount_minor, total_minor
         from sale_lines where merchant_id = $1 and sale_id = $2 order by line",
        merchant.0,
        sale.0,
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SaleLine {
                line: row.line.unsigned_abs(),
                variant: VariantId(row.variant_id),
                sku: row.sku,
                name: row.name,
                quantity: quantity(row.quantity)?,
                unit_price_minor: row.unit_price_minor,
                discount_minor: row.discount_minor,
                total_minor: row.total_minor,
            })
        })
        .collect()
}

async fn tenders(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<Vec<Tender>> {
    let rows = sqlx::query!(
        "select payment_id, method, amount_minor, tendered_minor, change_minor
         from payments where merchant_id = $1 and sale_id = $2 order by place",
        merchant.0,
        sale.0,
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Tender {
                payment: PaymentId(row.payment_id),
                method: Method::of(&row.method).ok_or_else(|| anyhow::anyhow!("an unknown method: {}", row.method))?,
                amount_minor: row.amount_minor,
                tendered_minor: row.tendered_minor,
                change_minor: row.change_minor,
            })
        })
        .collect()
}

/// A sale in a list: without its lines.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleSummary {
    pub id: SaleId,
    pub number: String,
    pub register: RegisterId,
    pub business_date: String,
    pub currency: String,
    pub total_minor: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
}

/// Sales of an outlet, newest first, before a sale.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    before: Option<SaleId>,
    limit: u32,
) -> Result<Vec<SaleSummary>> {
    let rows = sqlx::query!(
        "select sale_id, number, register_id, business_date, currency, total_minor, occurred_at from sales
         where merchant_id = $1 and outlet_id = $2 and ($3::uuid is null or sale_id < $3)
         order by sale_id desc limit $4",
        merchant.0,
        outlet.0,
        before.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| SaleSummary {
            id: SaleId(row.sale_id),
            number: row.number,
            register: RegisterId(row.register_id),
            business_date: row.business_date.to_string(),
            currency: row.currency,
            total_minor: row.total_minor,
            occurred_at: row.occurred_at,
        })
        .collect())
}

fn completed(sale: &SaleView) -> SaleCompleted {
    SaleCompleted {
        sale: sale.id,
        number: sale.number.clone(),
        outlet: sale.outlet,
        register: sale.register,
        business_date: sale.business_date.clone(),
        currency: sale.currency.clone(),
        lines: sale.lines.clone(),
        subtotal_minor: sale.subtotal_minor,
        discount_minor: sale.discount_minor,
        total_minor: sale.total_minor,
        tenders: sale.tenders.clone(),
    }
}

fn captured(sale: &SaleView, tender: &Tender) -> PaymentCaptured {
    PaymentCaptured {
        payment: tender.payment,
        sale: sale.id,
        outlet: sale.outlet,
        register: sale.register,
        method: tender.method,
        currency: sale.currency.clone(),
        amount_minor: tender.amount_minor,
        tendered_minor: tender.tendered_minor,
        change_minor: tender.change_minor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAD: VariantId = VariantId(uuid::Uuid::nil());

    fn draft(quantity: &str, discount_minor: i64, tenders: &[(Method, i64, Option<i64>)]) -> Draft {
        let line = DraftLine {
            variant: BREAD,
            quantity: quantity.parse().unwrap(),
            unit_price_minor: None,
            discount_minor: 0,
        };
        Draft {
            id: SaleId::new(),
            outlet: OutletId::new(),
            register: RegisterId::new(),
            number: None,
            occurred_at: None,
            lines: vec![line.clone(), line],
            discount_minor,
            tenders: tenders
                .iter()
                .map(|&(method, amount_minor, tendered_minor)| DraftTender {
                    id: PaymentId::new(),
                    method,
                    amount_minor,
                    tendered_minor,
                })
                .collect(),
        }
    }

    fn prices() -> BTreeMap<VariantId, Priced> {
        [(BREAD, Priced { sku: "1".into(), name: "Roti".into(), price_minor: 7_500, active: true })].into()
    }

    fn code(result: Result<RungUp>) -> &'static str {
        match result {
            Err(Error::Invalid { code, .. } | Error::Conflict { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn adds_up() {
        let sale = ring_up(&draft("1.5", 501, &[(Method::Cash, 21_999, Some(50_000))]), &prices()).unwrap();
        assert_eq!((sale.subtotal_minor, sale.discount_minor, sale.total_minor), (22_500, 501, 21_999));
        assert_eq!(sale.lines.iter().map(|line| line.total_minor).sum::<i64>(), 21_999);
        assert_eq!(sale.tenders[0].change_minor, 28_001);
    }

    #[test]
    fn refuses_tenders_that_do_not_pay_the_total() {
        for tenders in [vec![], vec![(Method::Cash, 14_999, None)], vec![(Method::Cash, 15_001, None)]] {
            assert_eq!(code(ring_up(&draft("1", 0, &tenders), &prices())), "tenders_mismatch");
        }
        let change_for_a_card = draft("1", 0, &[(Method::Card, 15_000, Some(20_000))]);
        assert_eq!(code(ring_up(&change_for_a_card, &prices())), "tendered_mismatch");
        let too_little_handed_over = draft("1", 0, &[(Method::Cash, 15_000, Some(10_000))]);
        assert_eq!(code(ring_up(&too_little_handed_over, &prices())), "tendered_mismatch");
    }

    #[test]
    fn refuses_what_is_absurd() {
        assert_eq!(code(ring_up(&draft("1", 15_001, &[]), &prices())), "discount_too_large");
        assert_eq!(code(ring_up(&draft("99999999999", 0, &[]), &prices())), "amount_out_of_range");
        assert_eq!(code(ring_up(&draft("1", 0, &[]), &BTreeMap::new())), "unknown_variant");
        let mut stale = draft("1", 0, &[(Method::Qris, 15_000, None)]);
        stale.lines[1].unit_price_minor = Some(7_000);
        assert_eq!(code(ring_up(&stale, &prices())), "price_changed");
    }

    #[test]
    fn lines_of_one_variant_are_taken_together() {
        let movement = taken(&draft("1.5", 0, &[]), Moment::UNIX_EPOCH).unwrap();
        assert_eq!(movement.changes[&BREAD].0, Change::By("-3".parse().unwrap()));
    }
}
