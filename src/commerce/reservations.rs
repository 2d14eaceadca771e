//! Reservations: what open sales keep back of stock. Made once, and ended once, with their sale.
//!
//! INVARIANT: what a level says is reserved is the sum of its reservations that are pending. Whoever makes or ends one holds
//! the lock on the sale's row, then takes those on the levels, in variant order.

use std::collections::BTreeMap;

use tillwire_channels::event::{ReservedLevel, StockReserved};
use tillwire_channels::{OutletId, Quantity, SaleId, VariantId};
use uuid::Uuid;

use super::stock::{self, Level, Named};
use super::{decimal, quantity};
use crate::error::Result;
use crate::journal::MerchantTx;

/// What is wanted of each variant, and the line that asked for it.
pub(super) type Wanted = BTreeMap<VariantId, (Quantity, usize)>;

/// How a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What it kept back is sold.
    Posted,
    Voided,
    Expired,
}

impl End {
    /// The word in the database.
    fn as_str(self) -> &'static str {
        match self {
            Self::Posted => "posted",
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }
}

/// Keeps back what a sale wants, all of it or nothing. Answers what is to be told of that.
///
/// # Errors
/// `out_of_stock`, with the line, if there is not so much that is free.
pub(super) async fn make(
    tx: &mut MerchantTx,
    outlet: OutletId,
    sale: SaleId,
    wanted: &Wanted,
    names: &BTreeMap<VariantId, Named>,
) -> Result<StockReserved> {
    let variants: Vec<Uuid> = wanted.keys().map(|variant| variant.0).collect();
    let locked = stock::lock_levels(tx, outlet, &variants).await?;
    let levels = decide(wanted, &locked)?;
    insert(tx, outlet, sale, wanted).await?;
    told(outlet, sale, levels, names)
}

/// A level of which another part is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reserved {
    variant: VariantId,
    change: Quantity,
    /// By all, after it.
    reserved: Quantity,
}

/// What is reserved of each level, or which line cannot be.
fn decide(wanted: &Wanted, locked: &BTreeMap<VariantId, Level>) -> Result<Vec<Reserved>> {
    let reserve = |(&variant, &(change, line)): (&VariantId, &(Quantity, usize))| {
        let level = locked.get(&variant).copied().unwrap_or(Level::NOTHING);
        let reserved = level.reserved.checked_add(change).filter(|reserved| *reserved <= level.on_hand);
        let reserved = reserved.ok_or_else(|| level.is_short_of(change, line))?;
        Ok(Reserved { variant, change, reserved })
    };
    wanted.iter().map(reserve).collect()
}

async fn insert(tx: &mut MerchantTx, outlet: OutletId, sale: SaleId, wanted: &Wanted) -> Result<()> {
    let merchant = tx.merchant();
    let variants: Vec<Uuid> = wanted.keys().map(|variant| variant.0).collect();
    let quantities: Vec<_> = wanted.values().map(|(wanted, _)| decimal(*wanted)).collect();
    let made = sqlx::query_scalar!(
        r#"with wanted as (
             select * from unnest($4::uuid[], $5::numeric[]) as w (variant_id, quantity)
         ), changed as (
             update stock_levels level
             set reserved = level.reserved + wanted.quantity, version = level.version + 1
             from wanted
             where level.merchant_id = $1 and level.outlet_id = $2 and level.variant_id = wanted.variant_id
               and level.on_hand - level.reserved >= wanted.quantity
             returning level.variant_id, wanted.quantity
         ), made as (
             insert into reservations (merchant_id, sale_id, variant_id, outlet_id, quantity)
             select $1, $3, variant_id, $2, quantity from changed
             returning 1
         )
         select count(*) as "made!" from made"#,
        merchant.0,
        outlet.0,
        sale.0,
        &variants,
        &quantities,
    )
    .fetch_one(tx.sql())
    .await?;
    if usize::try_from(made)? != wanted.len() {
        // The rows are locked and were decided on: this cannot be, and must not be half-done.
        return Err(anyhow::anyhow!("{made} of {} reservations were made", wanted.len()).into());
    }
    Ok(())
}

/// Ends what a sale keeps back, and answers what is to be told of that. What is posted is still on hand: whoever posts takes
/// it in the same transaction.
pub(super) async fn end(
    tx: &mut MerchantTx,
    outlet: OutletId,
    sale: SaleId,
    end: End,
    names: &BTreeMap<VariantId, Named>,
) -> Result<StockReserved> {
    let pending = lock_pending(tx, sale).await?;
    let levels = write_end(tx, sale, end).await?;
    if levels.len() != pending {
        return Err(anyhow::anyhow!("{} of {pending} reservations were ended", levels.len()).into());
    }
    told(outlet, sale, levels, names)
}

/// Locks the levels of which a sale keeps something back, in the order of the variants. Answers how many they are.
async fn lock_pending(tx: &mut MerchantTx, sale: SaleId) -> Result<usize> {
    let merchant = tx.merchant();
    let locked = sqlx::query_scalar!(
        "select level.variant_id
         from reservations reservation join stock_levels level using (merchant_id, outlet_id, variant_id)
         where reservation.merchant_id = $1 and reservation.sale_id = $2 and reservation.state = 'pending'
         order by level.variant_id for update of level",
        merchant.0,
        sale.0,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(locked.len())
}

async fn write_end(tx: &mut MerchantTx, sale: SaleId, end: End) -> Result<Vec<Reserved>> {
    let merchant = tx.merchant();
    let rows = sqlx::query!(
        r#"with ended as (
             update reservations set state = $3, ended_at = now()
             where merchant_id = $1 and sale_id = $2 and state = 'pending'
             returning outlet_id, variant_id, quantity
         )
         update stock_levels level
         set reserved = level.reserved - ended.quantity, version = level.version + 1
         from ended
         where level.merchant_id = $1 and level.outlet_id = ended.outlet_id and level.variant_id = ended.variant_id
         returning level.variant_id, level.reserved, ended.quantity as "quantity!""#,
        merchant.0,
        sale.0,
        end.as_str(),
    )
    .fetch_all(tx.sql())
    .await?;
    let mut levels = rows
        .into_iter()
        .map(|row| {
            let (variant, change) = (VariantId(row.variant_id), quantity(row.quantity)?.negated());
            Ok(Reserved { variant, change, reserved: quantity(row.reserved)? })
        })
        .collect::<Result<Vec<_>>>()?;
    levels.sort_by_key(|level| level.variant);
    Ok(levels)
}

fn told(
    outlet: OutletId,
    sale: SaleId,
    levels: Vec<Reserved>,
    names: &BTreeMap<VariantId, Named>,
) -> Result<StockReserved> {
    let level = |Reserved { variant, change, reserved }| {
        let named = names.get(&variant).cloned();
        let Named { sku, name } = named.ok_or_else(|| anyhow::anyhow!("{variant} is reserved and has no name"))?;
        Ok(ReservedLevel { variant, sku, name, reserved, change })
    };
    Ok(StockReserved { outlet, sale, levels: levels.into_iter().map(level).collect::<Result<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const BREAD: VariantId = VariantId(Uuid::nil());

    fn reserve(wanted: &str, there: Option<(&str, &str)>) -> Result<Vec<Reserved>> {
        let level = |(on_hand, reserved): (&str, &str)| {
            (BREAD, Level { on_hand: on_hand.parse().unwrap(), reserved: reserved.parse().unwrap() })
        };
        decide(&[(BREAD, (wanted.parse().unwrap(), 7))].into(), &there.map(level).into_iter().collect())
    }

    #[test]
    fn the_last_that_is_free_can_be_reserved_and_no_more() {
        assert_eq!(reserve("2", Some(("5", "3"))).unwrap()[0].reserved, "5".parse().unwrap());
        for (wanted, there) in [("2.001", Some(("5", "3"))), ("0.001", Some(("5", "5"))), ("1", None)] {
            let refused = reserve(wanted, there).unwrap_err();
            let Error::Conflict { code: "out_of_stock", pointer, .. } = refused else { panic!("{refused:?}") };
            assert_eq!(pointer.as_deref(), Some("/lines/7/quantity"));
        }
    }
}
