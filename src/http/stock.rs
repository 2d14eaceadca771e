//! `/v1/outlets/{outlet}/stock`: levels and what moves them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::{Deserialize, Serialize};
use tillwire_channels::event::StockReason;
use tillwire_channels::{Moment, OutletId, Quantity, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, Params, Valid};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::commerce::catalog;
use crate::commerce::stock::{self, Change, LINES_MAX, LevelView, MoveView, Movement, PAGE_MAX};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Moves stock: a delivery, a count, a loss.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveStock {
    /// `received`, `lost` or `counted`. Sales move stock by themselves.
    #[garde(custom(not_by_hand))]
    pub reason: StockReason,
    /// The delivery note, the count sheet: a UUID of your own.
    #[garde(skip)]
    pub document: Option<Uuid>,
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub occurred_at: Option<Moment>,
    /// A variant stands in it once.
    #[garde(length(min = 1, max = LINES_MAX), dive)]
    pub lines: Vec<MoveLine>,
}

/// A line of a movement.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveLine {
    #[garde(skip)]
    pub variant: VariantId,
    /// How many came, were lost, or were counted.
    #[garde(custom(not_negative))]
    pub quantity: Quantity,
    /// With `counted`: what the counter was told. If that is no longer true the count is refused.
    #[garde(skip)]
    pub expected_on_hand: Option<Quantity>,
}

fn not_by_hand(reason: &StockReason, _: &()) -> garde::Result {
    match reason {
        StockReason::Sale => Err(garde::Error::new("stock is sold by completing a sale")),
        _ => Ok(()),
    }
}

fn not_negative(quantity: &Quantity, _: &()) -> garde::Result {
    if *quantity < Quantity::ZERO { Err(garde::Error::new("must not be negative")) } else { Ok(()) }
}

/// What a movement came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Moved {
    /// The levels that changed, as they are now.
    pub levels: Vec<LevelView>,
}

impl MoveStock {
    fn movement(self, outlet: OutletId) -> Result<Movement> {
        let mut changes = BTreeMap::new();
        for (at, line) in self.lines.into_iter().enumerate() {
            let change = change(self.reason, &line, at)?;
            if changes.insert(line.variant, (change, at)).is_some() {
                let detail = "This variant stands in the movement twice.";
                return Err(Error::invalid("variant_repeated", format!("/lines/{at}/variant"), detail));
            }
        }
        Ok(Movement {
            outlet,
            reason: self.reason,
            document: self.document,
            on_behalf_of: None,
            occurred_at: self.occurred_at,
            changes,
        })
    }
}

fn change(reason: StockReason, line: &MoveLine, at: usize) -> Result<Change> {
    let pointer = |field: &str| format!("/lines/{at}/{field}");
    match (reason, line.expected_on_hand) {
        (StockReason::Counted, Some(expected)) => Ok(Change::To { counted: line.quantity, expected }),
        (StockReason::Counted, None) => {
            let detail = "A count says what the counter was told.";
            Err(Error::invalid("expected_on_hand_missing", pointer("expected_on_hand"), detail))
        }
        (_, Some(_)) => {
            let detail = "Only a count has an expected level.";
            Err(Error::invalid("expected_on_hand_unexpected", pointer("expected_on_hand"), detail))
        }
        _ if line.quantity == Quantity::ZERO => {
            Err(Error::invalid("quantity_zero", pointer("quantity"), "Nothing moves."))
        }
        (StockReason::Lost, _) => Ok(Change::By(line.quantity.negated())),
        (_, None) => Ok(Change::By(line.quantity)),
    }
}

/// Levels of stock at an outlet, in the order of the variants' ids.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/stock", tag = "stock", params(("outlet" = OutletId, Path), PageParams),
    responses((status = 200, body = Page<LevelView>), (status = "default", body = Problem)))]
pub async fn levels(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<LevelView>>> {
    staff.may_at(Permission::ReadStock, outlet)?;
    let (limit, cursor) = params.read(100, PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    crate::commerce::outlets::get(tx.sql(), staff.merchant, outlet).await?;
    let levels = stock::levels(tx.sql(), staff.merchant, outlet, cursor.map(VariantId), limit).await?;
    Ok(Json(Page::cut(levels, limit, |level| level.variant.0)))
}

/// The level of one variant at an outlet.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/stock/{variant}", tag = "stock",
    params(("outlet" = OutletId, Path), ("variant" = VariantId, Path)),
    responses((status = 200, body = LevelView), (status = "default", body = Problem)))]
pub async fn level(
    State(hub): State<Hub>,
    staff: Staff,
    At((outlet, variant)): At<(OutletId, VariantId)>,
) -> Result<Json<LevelView>> {
    staff.may_at(Permission::ReadStock, outlet)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(stock::level(tx.sql(), staff.merchant, outlet, variant).await?))
}

/// The ledger of one variant at an outlet, newest first.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/stock/{variant}/moves", tag = "stock",
    params(("outlet" = OutletId, Path), ("variant" = VariantId, Path), PageParams),
    responses((status = 200, body = Page<MoveView>), (status = "default", body = Problem)))]
pub async fn moves(
    State(hub): State<Hub>,
    staff: Staff,
    At((outlet, variant)): At<(OutletId, VariantId)>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<MoveView>>> {
    staff.may_at(Permission::ReadStock, outlet)?;
    let (limit, cursor) = params.read(100, PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    stock::level(tx.sql(), staff.merchant, outlet, variant).await?;
    let moves = stock::moves(tx.sql(), staff.merchant, (outlet, variant), cursor, limit).await?;
    Ok(Json(Page::cut(moves, limit, |moved| moved.id)))
}

/// Moves stock: a delivery, a count, a loss.
#[utoipa::path(post, path = "/v1/outlets/{outlet}/stock/moves", tag = "stock", request_body = MoveStock,
    params(("outlet" = OutletId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = Moved), (status = "default", body = Problem)))]
pub async fn apply(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<MoveStock>,
) -> Result<Written> {
    staff.may_at(Permission::MoveStock, outlet)?;
    let once = key.once("POST /v1/outlets/{outlet}/stock/moves", &bytes);
    let movement = body.movement(outlet)?;
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let movement = movement.clone();
            async move {
                let names = catalog::names(tx, movement.changes.keys().copied()).await?;
                Ok(Moved { levels: stock::apply(tx, &movement, &names).await? })
            }
            .boxed()
        })
        .await
}
