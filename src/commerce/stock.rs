//! Stock: an insert-only ledger of what moved, and the level that it adds up to.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{StockChanged, StockReason};
use tillwire_channels::{Event, MerchantId, Moment, OutletId, Quantity, StaffId, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::clock::happened_at;
use super::{decimal, quantity};
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// The most levels or moves that are listed at once.
pub const PAGE_MAX: u32 = 1_000;
/// The most lines of one movement.
pub const LINES_MAX: usize = 500;

/// The level of a variant at an outlet, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LevelView {
    pub variant: VariantId,
    pub sku: String,
    pub name: String,
    pub on_hand: Quantity,
    /// How much of it open sales keep back: the rest can be sold.
    pub reserved: Quantity,
}

/// A line of the ledger, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MoveView {
    pub id: Uuid,
    /// By how much: negative for what left.
    pub quantity: Quantity,
    /// What was there after it.
    pub on_hand: Quantity,
    pub reason: StockReason,
    /// The document that moved it.
    pub document: Option<Uuid>,
    pub actor: StaffId,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Moment,
}

/// What is to happen to a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// So much more, or less if negative.
    By(Quantity),
    /// It was counted. `expected` is what the counter was told: if it is no longer true, count again.
    To { counted: Quantity, expected: Quantity },
}

/// A movement: what moves, and why.
#[derive(Clone, Debug)]
pub struct Movement {
    pub outlet: OutletId,
    pub reason: StockReason,
    pub document: Option<Uuid>,
    /// Who answers for it where nobody acts but the hub itself.
    pub on_behalf_of: Option<StaffId>,
    /// By the clock of whoever moved it, if they say so.
    pub occurred_at: Option<Moment>,
    /// In the order of the variants, which is the order of locking; each with the line of the request that asked for it.
    pub changes: BTreeMap<VariantId, (Change, usize)>,
}

/// Names of a variant, for events and answers.
#[derive(Clone, Debug)]
pub struct Named {
    pub sku: String,
    pub name: String,
}

/// Moves stock: locks the levels in variant order, decides, and writes levels and ledger together.
pub async fn apply(
    tx: &mut MerchantTx,
    movement: &Movement,
    names: &BTreeMap<VariantId, Named>,
) -> Result<Vec<LevelView>> {
    let occurred_at = happened_at(movement.occurred_at, tx.now())?;
    let variants: Vec<Uuid> = movement.changes.keys().map(|variant| variant.0).collect();
    // Only what comes in, or is counted, can begin a level: nothing leaves where nothing was.
    if movement.reason != StockReason::Sale {
        begin_levels(tx, movement.outlet, &variants)
            .await
            .on_constraint("stock_levels_variant_fkey", || unknown_variant(movement, names))?;
    }
    let locked = lock_levels(tx, movement.outlet, &variants).await?;
    let moved = decide(&movement.changes, &locked)?;
    write(tx, movement, occurred_at, &moved).await?;
    let mut levels = Vec::with_capacity(moved.len());
    for Moved { variant, change, on_hand, reserved } in moved {
        let Named { sku, name } = names.get(&variant).cloned().ok_or_else(|| unknown_variant(movement, names))?;
        levels.push(LevelView { variant, sku: sku.clone(), name: name.clone(), on_hand, reserved });
        let event = StockChanged {
            outlet: movement.outlet,
            variant,
            sku,
            name,
            on_hand,
            change,
            reason: movement.reason,
            document: movement.document,
        };
        tx.append(&Event::StockChanged(event), occurred_at)?;
    }
    Ok(levels)
}

/// Names the first line with a variant that the merchant does not have.
fn unknown_variant(movement: &Movement, names: &BTreeMap<VariantId, Named>) -> Error {
    let unknown = movement.changes.iter().filter(|(variant, _)| !names.contains_key(*variant));
    let line = unknown.map(|(_, (_, line))| *line).min().unwrap_or_default();
    Error::invalid("unknown_variant", format!("/lines/{line}/variant"), "There is no such variant.")
}

/// A level whose row is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub on_hand: Quantity,
    pub reserved: Quantity,
}

impl Level {
    /// Of what was never there.
    pub const NOTHING: Self = Self { on_hand: Quantity::ZERO, reserved: Quantity::ZERO };

    /// That so many are wanted which are not there, or not to be had.
    pub fn is_short_of(self, wanted: Quantity, line: usize) -> Error {
        let Self { on_hand, reserved } = self;
        let there = match reserved {
            Quantity::ZERO => format!("There are {on_hand}"),
            _ => format!("There are {on_hand}, of which {reserved} are reserved"),
        };
        Error::conflict_at("out_of_stock", quantity_of(line), format!("{there}, and {wanted} are wanted."))
    }
}

/// A level that changes.
#[derive(Debug, PartialEq, Eq)]
struct Moved {
    variant: VariantId,
    change: Quantity,
    on_hand: Quantity,
    reserved: Quantity,
}

/// What each level becomes, or why it cannot. Counts that find what was expected move nothing.
fn decide(changes: &BTreeMap<VariantId, (Change, usize)>, locked: &BTreeMap<VariantId, Level>) -> Result<Vec<Moved>> {
    let mut moved = Vec::with_capacity(changes.len());
    for (&variant, &(wanted, line)) in changes {
        let level = locked.get(&variant).copied().unwrap_or(Level::NOTHING);
        let before = level.on_hand;
        let change = match wanted {
            Change::By(change) => change,
            Change::To { expected, .. } if expected != before => {
                let detail = format!("There are {before}, not {expected}: count again.");
                return Err(Error::conflict_at("count_is_stale", quantity_of(line), detail));
            }
            Change::To { counted, .. } => within_range(counted.checked_add(before.negated()), line)?,
        };
        let after = within_range(before.checked_add(change), line)?;
        if after < level.reserved {
            return Err(match wanted {
                Change::By(_) => level.is_short_of(change.negated(), line),
                Change::To { .. } => {
                    let detail = format!(
                        "Open sales have {} reserved: void some, or complete them, and count again.",
                        level.reserved
                    );
                    Error::conflict_at("stock_is_reserved", quantity_of(line), detail)
                }
            });
        }
        if change != Quantity::ZERO {
            moved.push(Moved { variant, change, on_hand: after, reserved: level.reserved });
        }
    }
    Ok(moved)
}

fn within_range(sum: Option<Quantity>, line: usize) -> Result<Quantity> {
    sum.ok_or_else(|| Error::invalid("quantity_out_of_range", quantity_of(line), "The level would be out of range."))
}

/// Where in the request a line says how many.
fn quantity_of(line: usize) -> String {
    format!("/lines/{line}/quantity")
}

async fn begin_levels(tx: &mut MerchantTx, outlet: OutletId, variants: &[Uuid]) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "insert into stock_levels (merchant_id, outlet_id, variant_id, on_hand)
         select $1, $2, variant, 0 from unnest($3::uuid[]) as variant order by variant
         on conflict do nothing",
        merchant.0,
        outlet.0,
        variants,
    )
    .execute(tx.sql())
    .await
    .on_constraint("stock_levels_outlet_fkey", || Error::NotFound("outlet"))?;
    Ok(())
}

/// Locks the levels in the order of the variants, so that two baskets never wait for each other in a ring.
pub(super) async fn lock_levels(
    tx: &mut MerchantTx,
    outlet: OutletId,
    variants: &[Uuid],
) -> Result<BTreeMap<VariantId, Level>> {
    let merchant = tx.merchant();
    let rows = sqlx::query!(
        "select variant_id, on_hand, reserved from stock_levels
         where merchant_id = $1 and outlet_id = $2 and variant_id = any($3)
         order by variant_id for update",
        merchant.0,
        outlet.0,
        variants,
    )
    .fetch_all(tx.sql())
    .await?;
    rows.into_iter()
        .map(|row| {
            let level = Level { on_hand: quantity(row.on_hand)?, reserved: quantity(row.reserved)? };
            Ok((VariantId(row.variant_id), level))
        })
        .collect()
}

async fn write(tx: &mut MerchantTx, movement: &Movement, occurred_at: Moment, moved: &[Moved]) -> Result<()> {
    let merchant = tx.merchant();
    let actor = tx.actor().or_else(|nobody| movement.on_behalf_of.ok_or(nobody))?;
    let variants: Vec<Uuid> = moved.iter().map(|moved| moved.variant.0).collect();
    let moves: Vec<Uuid> = moved.iter().map(|_| Uuid::now_v7()).collect();
    let changes: Vec<_> = moved.iter().map(|moved| decimal(moved.change)).collect();
    let written = sqlx::query_scalar!(
        r#"with wanted as (
             select * from unnest($3::uuid[], $4::uuid[], $5::numeric[]) as w (move_id, variant_id, change)
         ), changed as (
             update stock_levels level
             set on_hand = level.on_hand + wanted.change, version = level.version + 1
             from wanted
             where level.merchant_id = $1 and level.outlet_id = $2 and level.variant_id = wanted.variant_id
               and level.on_hand + wanted.change >= level.reserved
             returning wanted.move_id, level.variant_id, wanted.change, level.on_hand
         ), moved as (
             insert into stock_moves (merchant_id, move_id, outlet_id, variant_id, quantity, on_hand, reason,
                                      document_id, actor_id, occurred_at)
             select $1, move_id, $2, variant_id, change, on_hand, $6, $7, $8, $9 from changed
             returning 1
         )
         select count(*) as "written!" from moved"#,
        merchant.0,
        movement.outlet.0,
        &moves,
        &variants,
        &changes,
        movement.reason.as_str(),
        movement.document,
        actor.0,
        occurred_at,
    )
    .fetch_one(tx.sql())
    .await?;
    if usize::try_from(written)? != moved.len() {
        // The rows are locked and were decided on: this cannot be, and must not be half-done.
        return Err(anyhow::anyhow!("{written} of {} levels were written", moved.len()).into());
    }
    Ok(())
}

/// Levels of an outlet after a variant, in the order of the variants' ids.
pub async fn levels(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    after: Option<VariantId>,
    limit: u32,
) -> Result<Vec<LevelView>> {
    let rows = sqlx::query!(
        "select level.variant_id, variant.sku, product.name, variant.name as variant_name, level.on_hand, level.reserved
         from stock_levels level
         join variants variant using (merchant_id, variant_id)
         join products product using (merchant_id, product_id)
         where level.merchant_id = $1 and level.outlet_id = $2 and ($3::uuid is null or level.variant_id > $3)
         order by level.variant_id limit $4",
        merchant.0,
        outlet.0,
        after.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(LevelView {
                variant: VariantId(row.variant_id),
                sku: row.sku,
                name: full_name(&row.name, row.variant_name.as_deref()),
                on_hand: quantity(row.on_hand)?,
                reserved: quantity(row.reserved)?,
            })
        })
        .collect()
}

/// The level of one variant at an outlet.
pub async fn level(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    variant: VariantId,
) -> Result<LevelView> {
    let row = sqlx::query!(
        r#"select variant.sku, product.name, variant.name as variant_name, level.on_hand as "on_hand?",
                  level.reserved as "reserved?"
           from outlets outlet
           join variants variant on variant.merchant_id = outlet.merchant_id and variant.variant_id = $3
           join products product on product.merchant_id = outlet.merchant_id
                                and product.product_id = variant.product_id
           left join stock_levels level on level.merchant_id = outlet.merchant_id
                                       and level.outlet_id = outlet.outlet_id and level.variant_id = variant.variant_id
           where outlet.merchant_id = $1 and outlet.outlet_id = $2"#,
        merchant.0,
        outlet.0,
        variant.0,
    )
    .fetch_optional(sql)
    .await?
    .ok_or(Error::NotFound("variant"))?;
    Ok(LevelView {
        variant,
        sku: row.sku,
        name: full_name(&row.name, row.variant_name.as_deref()),
        on_hand: row.on_hand.map_or(Ok(Quantity::ZERO), quantity)?,
        reserved: row.reserved.map_or(Ok(Quantity::ZERO), quantity)?,
    })
}

/// The ledger of one variant at an outlet, newest first, before a move.
pub async fn moves(
    sql: &mut PgConnection,
    merchant: MerchantId,
    (outlet, variant): (OutletId, VariantId),
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<MoveView>> {
    let rows = sqlx::query!(
        "select move_id, quantity, on_hand, reason, document_id, actor_id, occurred_at, recorded_at from stock_moves
         where merchant_id = $1 and outlet_id = $2 and variant_id = $3 and ($4::uuid is null or move_id < $4)
         order by move_id desc limit $5",
        merchant.0,
        outlet.0,
        variant.0,
        before,
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(MoveView {
                id: row.move_id,
                quantity: quantity(row.quantity)?,
                on_hand: quantity(row.on_hand)?,
                reason: StockReason::of(&row.reason)
                    .ok_or_else(|| anyhow::anyhow!("an unknown reason: {}", row.reason))?,
                document: row.document_id,
                actor: StaffId(row.actor_id),
                occurred_at: row.occurred_at,
                recorded_at: row.recorded_at,
            })
        })
        .collect()
}

/// What a receipt calls a variant: the product's name, and what tells this variant from its others.
pub(super) fn full_name(product: &str, variant: Option<&str>) -> String {
    match variant {
        Some(variant) => format!("{product} {variant}"),
        None => product.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(change: Change, before: Option<&str>) -> Result<Vec<Moved>> {
        with_reserved(change, before, "0")
    }

    fn with_reserved(change: Change, before: Option<&str>, reserved: &str) -> Result<Vec<Moved>> {
        let variant = VariantId(Uuid::nil());
        let level = |on_hand: &str| Level { on_hand: on_hand.parse().unwrap(), reserved: reserved.parse().unwrap() };
        let locked = before.map(|before| (variant, level(before))).into_iter().collect();
        decide(&[(variant, (change, 0))].into(), &locked)
    }

    fn by(quantity: &str) -> Change {
        Change::By(quantity.parse().unwrap())
    }

    #[test]
    fn the_last_unit_can_be_taken_and_no_more() {
        assert_eq!(one(by("-1"), Some("1")).unwrap()[0].on_hand, Quantity::ZERO);
        for before in [Some("0.999"), Some("0"), None] {
            assert!(matches!(one(by("-1"), before), Err(Error::Conflict { code: "out_of_stock", .. })));
        }
    }

    #[test]
    fn what_is_reserved_cannot_be_taken_or_counted_away() {
        let taken = with_reserved(by("-2"), Some("5"), "3").unwrap();
        assert_eq!((taken[0].on_hand, taken[0].reserved), ("3".parse().unwrap(), "3".parse().unwrap()));
        let refused = with_reserved(by("-2.001"), Some("5"), "3").unwrap_err();
        let Error::Conflict { code: "out_of_stock", detail, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(detail, "There are 5.000, of which 3.000 are reserved, and 2.001 are wanted.");
        let count = |counted: &str| Change::To { counted: counted.parse().unwrap(), expected: "5".parse().unwrap() };
        assert_eq!(with_reserved(count("3"), Some("5"), "3").unwrap()[0].on_hand, "3".parse().unwrap());
        let refused = with_reserved(count("2.999"), Some("5"), "3").unwrap_err();
        assert!(matches!(refused, Error::Conflict { code: "stock_is_reserved", .. }), "{refused:?}");
    }

    #[test]
    fn a_count_that_is_stale_is_refused() {
        let count = |expected: &str| Change::To { counted: "5".parse().unwrap(), expected: expected.parse().unwrap() };
        assert_eq!(one(count("7"), Some("7")).unwrap()[0].change, "-2".parse().unwrap());
        assert!(matches!(one(count("7"), Some("6")), Err(Error::Conflict { code: "count_is_stale", .. })));
        assert_eq!(one(count("5"), Some("5")).unwrap(), []);
    }
}
