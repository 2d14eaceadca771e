//! `/v1/sales`: what the tills ring up.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::event::Method;
use tillwire_channels::{Moment, OutletId, PaymentId, Quantity, RegisterId, SaleId, VariantId};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::commerce::sales::{
    self, Draft, DraftLine, DraftTender, LINES_MAX, PAGE_MAX, SaleSummary, SaleView, TENDERS_MAX,
};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Completes a sale.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteSale {
    /// A UUID of the till's own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<SaleId>,
    #[garde(skip)]
    pub register: RegisterId,
    /// The receipt's number, if the till has its own series; else the register's next one is taken.
    #[garde(inner(length(chars, min = 1, max = 64), custom(printable)))]
    pub number: Option<String>,
    /// When it happened, by the till's clock; now, if it is left out.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub occurred_at: Option<Moment>,
    #[garde(length(min = 1, max = LINES_MAX), dive)]
    pub lines: Vec<CompleteLine>,
    /// A discount on the whole sale, spread over its lines.
    #[garde(range(min = 0, max = AMOUNT_MAX_MINOR))]
    #[serde(default)]
    pub discount_minor: i64,
    /// Together exactly the total.
    #[garde(length(max = TENDERS_MAX), dive)]
    #[serde(default)]
    pub tenders: Vec<CompleteTender>,
}

/// A line of a sale, as the till hands it in.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteLine {
    #[garde(skip)]
    pub variant: VariantId,
    #[garde(custom(positive))]
    pub quantity: Quantity,
    /// The price that the till showed; refused if it is no longer the price.
    #[garde(inner(range(min = 0, max = AMOUNT_MAX_MINOR)))]
    pub unit_price_minor: Option<i64>,
    #[garde(range(min = 0, max = AMOUNT_MAX_MINOR))]
    #[serde(default)]
    pub discount_minor: i64,
}

/// How it was paid, or a part of it.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteTender {
    /// A UUID of the till's own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<PaymentId>,
    #[garde(skip)]
    pub method: Method,
    /// What it pays of the sale.
    #[garde(range(min = 1, max = AMOUNT_MAX_MINOR))]
    pub amount_minor: i64,
    /// What was handed over, if it is more: only cash gives change.
    #[garde(inner(range(min = 1, max = AMOUNT_MAX_MINOR)))]
    pub tendered_minor: Option<i64>,
}

fn positive(quantity: &Quantity, _: &()) -> garde::Result {
    if *quantity > Quantity::ZERO { Ok(()) } else { Err(garde::Error::new("must be more than nothing")) }
}

impl CompleteSale {
    fn draft(self, outlet: OutletId) -> Draft {
        Draft {
            id: self.id.unwrap_or_else(SaleId::new),
            outlet,
            register: self.register,
            number: self.number,
            occurred_at: self.occurred_at,
            lines: self
                .lines
                .into_iter()
                .map(|CompleteLine { variant, quantity, unit_price_minor, discount_minor }| DraftLine {
                    variant,
                    quantity,
                    unit_price_minor,
                    discount_minor,
                })
                .collect(),
            discount_minor: self.discount_minor,
            tenders: self
                .tenders
                .into_iter()
                .map(|CompleteTender { id, method, amount_minor, tendered_minor }| DraftTender {
                    id: id.unwrap_or_else(PaymentId::new),
                    method,
                    amount_minor,
                    tendered_minor,
                })
                .collect(),
        }
    }
}

/// Completes a sale: lines, discounts, tenders and stock in one transaction.
#[utoipa::path(post, path = "/v1/outlets/{outlet}/sales", tag = "sales", request_body = CompleteSale,
    params(("outlet" = OutletId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = SaleView), (status = "default", body = Problem)))]
pub async fn complete(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<CompleteSale>,
) -> Result<Written> {
    staff.may_at(Permission::Sell, outlet)?;
    if staff.register.is_some_and(|own| own != body.register) {
        return Err(Error::Denied(Permission::Sell));
    }
    let once = key.once("POST /v1/outlets/{outlet}/sales", &bytes);
    let draft = body.draft(outlet);
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| sales::complete(tx, draft.clone()).boxed()).await
}

/// One sale.
#[utoipa::path(get, path = "/v1/sales/{sale}", tag = "sales", params(("sale" = SaleId, Path)),
    responses((status = 200, body = SaleView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(sale): At<SaleId>) -> Result<Json<SaleView>> {
    staff.may(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let sale = sales::get(tx.sql(), staff.merchant, sale).await?;
    staff.may_at(Permission::ReadSales, sale.outlet)?;
    Ok(Json(sale))
}

/// Sales of an outlet, the largest id first. Ids that the hub makes grow with time, so of those the newest come first.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/sales", tag = "sales",
    params(("outlet" = OutletId, Path), PageParams),
    responses((status = 200, body = Page<SaleSummary>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<SaleSummary>>> {
    staff.may_at(Permission::ReadSales, outlet)?;
    let (limit, cursor) = params.read(50, PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    crate::commerce::outlets::get(tx.sql(), staff.merchant, outlet).await?;
    let sales = sales::list(tx.sql(), staff.merchant, outlet, cursor.map(SaleId), limit).await?;
    Ok(Json(Page::cut(sales, limit, |sale| sale.id.0)))
}
