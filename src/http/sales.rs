//! `/v1/sales`: what the tills ring up.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tillwire_channels::event::Method;
use tillwire_channels::{Moment, OutletId, PaymentId, Quantity, RegisterId, SaleId, VariantId};
use utoipa::{IntoParams, ToSchema};

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, bounded, cursor};
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::commerce::payments::{PaymentView, by_hand};
use crate::commerce::sales::{
    self, Draft, DraftLine, DraftTender, LINES_MAX, Locked, OPEN_SECONDS, OPEN_SECONDS_MAX, OPEN_SECONDS_MIN, PAGE_MAX,
    PaidView, SaleState, SaleSummary, SaleView, TENDERS_MAX,
};
use crate::connectors::credentials::{Mode, Provider};
use crate::connectors::payment::Bank;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;
use crate::payments::asking::{self, LIFE_SECONDS, LIFE_SECONDS_MAX, LIFE_SECONDS_MIN, Wanted};

/// Completes a sale, or opens one.
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
    /// Together exactly the total; or, with `open`, no more than that.
    #[garde(length(max = TENDERS_MAX), dive)]
    #[serde(default)]
    pub tenders: Vec<CompleteTender>,
    /// Whether the rest may be paid later. If the tenders do not cover the total, the sale is then open: its lines are reserved,
    /// and it is completed by the payment that covers it. If they do, it is completed at once.
    #[garde(skip)]
    #[serde(default)]
    pub open: bool,
    /// With `open`: after how many seconds it ends by itself, if nothing is paid by then. 1,800, half an hour, if it is left out.
    #[garde(inner(range(min = OPEN_SECONDS_MIN, max = OPEN_SECONDS_MAX)))]
    pub expires_in_seconds: Option<u32>,
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

/// Takes a payment for an open sale, or a part of one: by hand, or by a provider.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakePayment {
    /// A UUID of the till's own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<PaymentId>,
    #[garde(skip)]
    pub method: Method,
    /// What it pays of the sale: no more than is due. By a provider it may be left out, for all that is due and not
    /// being paid already.
    #[garde(inner(range(min = 1, max = AMOUNT_MAX_MINOR)))]
    pub amount_minor: Option<i64>,
    /// What was handed over, if it is more: only cash gives change.
    #[garde(inner(range(min = 1, max = AMOUNT_MAX_MINOR)))]
    pub tendered_minor: Option<i64>,
    /// The provider that carries it, by the account of the outlet or of the merchant. Without one it was taken by hand: in cash,
    /// or as a terminal of one's own says.
    #[garde(skip)]
    pub provider: Option<Provider>,
    /// By a provider: whether money moves. It does unless this is `test`.
    #[garde(skip)]
    pub mode: Option<Mode>,
    /// By a provider, for a transfer: to which bank.
    #[garde(skip)]
    pub bank: Option<Bank>,
    /// By a provider: for how long the customer can pay. A quarter of an hour, if it is left out.
    #[garde(inner(range(min = LIFE_SECONDS_MIN, max = LIFE_SECONDS_MAX)))]
    pub expires_in_seconds: Option<u32>,
    /// For a card at Midtrans: what its script in the browser made of it. It is kept nowhere.
    #[garde(skip)]
    #[schema(value_type = Option<String>)]
    pub card_token: Option<SecretString>,
    /// By a provider, for a card: whether its money is held first. `POST /v1/payments/{payment}/capture` takes it, `…/cancel` lets
    /// go of it.
    #[garde(skip)]
    #[serde(default)]
    pub hold: bool,
}

/// Voids an open sale.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoidSale {
    /// Why, in a few words.
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub reason: String,
}

impl CompleteSale {
    fn draft(self, outlet: OutletId) -> Result<Draft> {
        let open_for = match (self.open, self.expires_in_seconds) {
            (true, seconds) => Some(time::Duration::seconds(seconds.unwrap_or(OPEN_SECONDS).into())),
            (false, None) => None,
            (false, Some(_)) => {
                let detail = "Only a sale that may be open expires.";
                return Err(Error::invalid("expires_in_unexpected", "/expires_in_seconds", detail));
            }
        };
        Ok(Draft {
            id: self.id.unwrap_or_else(SaleId::new),
            outlet,
            register: self.register,
            number: self.number,
            occurred_at: self.occurred_at,
            open_for,
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
        })
    }
}

/// Whether somebody may sell where this sale is: at its outlet, and whoever is bound to a register at that.
pub(super) fn may_sell(staff: &Staff, sale: &Locked) -> Result<()> {
    may_there(staff, Permission::Sell, sale)
}

/// The same of whatever is done for a sale.
pub(super) fn may_there(staff: &Staff, permission: Permission, sale: &Locked) -> Result<()> {
    staff.may_at(permission, sale.outlet)?;
    if staff.register.is_some_and(|own| own != sale.register) {
        return Err(Error::Denied(permission));
    }
    Ok(())
}

/// Completes a sale: lines, discounts, tenders and stock in one transaction. With `open` it may be paid later: what its tenders
/// do not cover is due, and its lines are reserved until it is completed, voided or expires.
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
    let draft = body.draft(outlet)?;
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| sales::sell(tx, draft.clone()).boxed()).await
}

/// What a payment answers: one by hand is there at once, one by a provider is on its way.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, clippy::large_enum_variant)] // It is a description.
pub enum Taken {
    ByHand(PaidView),
    ByProvider(PaymentView),
}

/// Takes a payment for an open sale. By hand, cash or what a terminal of one's own says, it is there at once. By a provider it is
/// asked for: the answer has what the customer is shown, if the provider says so within ten seconds; what becomes of it is told
/// on `payments`. The one that covers what is due completes the sale. As long as it is open it can be paid: one whose time is over
/// until the hub has ended it, which takes a second or two.
#[utoipa::path(post, path = "/v1/sales/{sale}/payments", tag = "sales", request_body = TakePayment,
    params(("sale" = SaleId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = Taken), (status = "default", body = Problem)))]
pub async fn pay(
    State(hub): State<Hub>,
    staff: Staff,
    At(sale): At<SaleId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<TakePayment>,
) -> Result<Written> {
    staff.may(Permission::Sell)?;
    let once = key.once("POST /v1/sales/{sale}/payments", &bytes);
    let TakePayment {
        id,
        method,
        amount_minor,
        tendered_minor,
        provider,
        mode,
        bank,
        expires_in_seconds,
        card_token,
        hold,
    } = body;
    let id = id.unwrap_or_else(PaymentId::new);
    if let Some(provider) = provider {
        if tendered_minor.is_some() {
            let detail = "Only what is taken by hand is handed over.";
            return Err(Error::invalid("tendered_mismatch", "/tendered_minor", detail));
        }
        let wanted = Wanted {
            payment: id,
            method: asking::method(method, bank)?,
            amount_minor,
            provider,
            mode: mode.unwrap_or(Mode::Live),
            life_seconds: expires_in_seconds.unwrap_or(LIFE_SECONDS),
            card_token,
            hold,
        };
        return super::payments::ask(&hub, staff, once, sale, wanted).await;
    }
    let unexpected = [
        ("/mode", mode.is_some()),
        ("/bank", bank.is_some()),
        ("/expires_in_seconds", expires_in_seconds.is_some()),
        ("/card_token", card_token.is_some()),
        ("/hold", hold),
    ];
    if let Some((pointer, _)) = unexpected.into_iter().find(|(_, is_there)| *is_there) {
        return Err(Error::invalid("provider_missing", pointer, "This is for a payment by a provider: which?"));
    }
    let Some(amount_minor) = amount_minor else {
        return Err(Error::invalid("amount_missing", "/amount_minor", "How much was taken?"));
    };
    let tender = DraftTender { id, method, amount_minor, tendered_minor };
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let (staff, tender) = (staff.clone(), tender.clone());
            async move {
                let sale = sales::lock(tx, sale).await?;
                may_sell(&staff, &sale)?;
                by_hand::take(tx, &sale, &tender).await
            }
            .boxed()
        })
        .await
}

/// Voids an open sale that nothing is paid of, or not any more: what it reserved is free, and its number is not used again.
#[utoipa::path(post, path = "/v1/sales/{sale}/void", tag = "sales", request_body = VoidSale,
    params(("sale" = SaleId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = SaleView), (status = "default", body = Problem)))]
pub async fn void(
    State(hub): State<Hub>,
    staff: Staff,
    At(sale): At<SaleId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<VoidSale>,
) -> Result<Written> {
    staff.may(Permission::Sell)?;
    let once = key.once("POST /v1/sales/{sale}/void", &bytes);
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let (staff, reason) = (staff.clone(), body.reason.clone());
            async move {
                let sale = sales::lock(tx, sale).await?;
                may_sell(&staff, &sale)?;
                sales::void(tx, &sale, Some(reason)).await
            }
            .boxed()
        })
        .await
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

/// Which sales to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SaleParams {
    /// Those alone that stand so.
    pub state: Option<SaleState>,
    /// How many, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Sales of an outlet, all or those in one state, the largest id first. Ids that the hub makes grow with time, so of those the newest come first.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/sales", tag = "sales",
    params(("outlet" = OutletId, Path), SaleParams),
    responses((status = 200, body = Page<SaleSummary>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    Params(params): Params<SaleParams>,
) -> Result<Json<Page<SaleSummary>>> {
    staff.may_at(Permission::ReadSales, outlet)?;
    let (limit, cursor) = (bounded(params.limit, 50, PAGE_MAX)?, cursor(params.cursor.as_deref())?);
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    crate::commerce::outlets::get(tx.sql(), staff.merchant, outlet).await?;
    let sales = sales::list(tx.sql(), staff.merchant, outlet, params.state, cursor.map(SaleId), limit).await?;
    Ok(Json(Page::cut(sales, limit, |sale| sale.id.0)))
}
