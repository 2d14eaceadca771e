//! What the catalogue already knows, and what it therefore decides of each product that is to be put.

use std::collections::{HashMap, HashSet};

use tillwire_channels::{ProductId, VariantId};
use uuid::Uuid;

use super::{Expect, Outcome, Product, Variant};
use crate::error::{Fault, Result};
use crate::journal::MerchantTx;

/// What the catalogue already says of the products that are to be put.
pub(super) struct Known {
    versions: HashMap<ProductId, i64>,
    /// By SKU.
    skus: HashMap<String, (VariantId, ProductId)>,
    variants: HashMap<VariantId, ProductId>,
    /// By barcode: the variant, and the product it belongs to.
    barcodes: HashMap<String, (VariantId, ProductId)>,
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Plan<'a> {
    pub products: Vec<(ProductId, &'a Product)>,
    pub variants: Vec<(ProductId, VariantId, &'a Variant)>,
}

/// The ids that a product and its variants get.
type Placed<'a> = (ProductId, Vec<(VariantId, &'a Variant)>);

impl Known {
    pub async fn read(tx: &mut MerchantTx, products: &[Product]) -> Result<Self> {
        let merchant = tx.merchant();
        let ids: Vec<Uuid> = products.iter().filter_map(|product| product.id).map(|id| id.0).collect();
        let variants = || products.iter().flat_map(|product| &product.variants);
        let variant_ids: Vec<Uuid> = variants().filter_map(|variant| variant.id).map(|id| id.0).collect();
        let skus: Vec<String> = variants().map(|variant| variant.sku.clone()).collect();
        let barcodes: Vec<String> = variants().flat_map(|variant| variant.barcodes.clone()).collect();
        // A plan that was made when the tables were empty reads all of them; an import fills them in seconds, long before
        // their statistics are looked at again.
        sqlx::query!("select set_config('plan_cache_mode', 'force_custom_plan', true) as mode")
            .fetch_one(tx.sql())
            .await?;
        let rows = sqlx::query!(
            r#"select variant_id as "variant_id!", product_id as "product_id!", sku as "sku!" from (
                 select variant_id, product_id, sku from variants where merchant_id = $1 and sku = any($2)
                 union select variant_id, product_id, sku from variants where merchant_id = $1 and product_id = any($3)
                 union select variant_id, product_id, sku from variants where merchant_id = $1 and variant_id = any($4)
               ) found"#,
            merchant.0,
            &skus,
            &ids,
            &variant_ids,
        )
        .fetch_all(tx.sql())
        .await?;
        let owners: Vec<Uuid> = rows.iter().map(|row| row.product_id).chain(ids).collect();
        let versions = sqlx::query!(
            "select product_id, version from products where merchant_id = $1 and product_id = any($2)",
            merchant.0,
            &owners,
        )
        .fetch_all(tx.sql())
        .await?;
        let taken = sqlx::query!(
            "select barcode, variant_id, product_id from barcodes join variants using (merchant_id, variant_id)
             where merchant_id = $1 and barcode = any($2)",
            merchant.0,
            &barcodes,
        )
        .fetch_all(tx.sql())
        .await?;
        Ok(Self {
            versions: versions.into_iter().map(|row| (ProductId(row.product_id), row.version)).collect(),
            variants: rows.iter().map(|row| (VariantId(row.variant_id), ProductId(row.product_id))).collect(),
            skus: rows
                .into_iter()
                .map(|row| (row.sku, (VariantId(row.variant_id), ProductId(row.product_id))))
                .collect(),
            barcodes: taken
                .into_iter()
                .map(|row| (row.barcode, (VariantId(row.variant_id), ProductId(row.product_id))))
                .collect(),
        })
    }

    /// Decides for each product, in order. Of two that want the same SKU, the first has it.
    pub fn decide<'a>(&self, products: &'a [Product], expect: Expect) -> (Vec<Outcome>, Plan<'a>) {
        let mut plan = Plan::default();
        let mut claimed = Claimed::default();
        let outcomes = products
            .iter()
            .map(|product| match self.place(product, expect, &mut claimed) {
                Ok((id, variants)) => {
                    plan.products.push((id, product));
                    plan.variants.extend(variants.into_iter().map(|(variant, wanted)| (id, variant, wanted)));
                    if self.versions.contains_key(&id) { Outcome::Changed(id) } else { Outcome::Created(id) }
                }
                Err(fault) => Outcome::Refused(fault),
            })
            .collect();
        (outcomes, plan)
    }

    /// The ids that a product and its variants get, or why it is refused.
    fn place<'a>(&self, product: &'a Product, expect: Expect, claimed: &mut Claimed) -> Result<Placed<'a>, Fault> {
        let by_sku = || product.variants.first().and_then(|first| self.skus.get(&first.sku)).map(|(_, owner)| *owner);
        let existing = match (product.id, expect) {
            (Some(id), _) => self.versions.contains_key(&id).then_some(id),
            // A new product never stands for one that has its SKU: that is refused below, naming the SKU.
            (None, Expect::New) => None,
            (None, _) => by_sku(),
        };
        match (expect, existing) {
            (Expect::New, Some(_)) => return Err(fault("id_taken", "/id", "This id is in use.")),
            (Expect::Existing { .. }, None) => {
                return Err(fault("product_not_found", "/id", "There is no such product."));
            }
            (Expect::Existing { version: Some(expected) }, Some(id)) if self.versions[&id] != expected => {
                let detail = format!("The product is at version {}, not {expected}.", self.versions[&id]);
                return Err(fault("stale_version", "", detail));
            }
            _ => {}
        }
        let id = existing.or(product.id).unwrap_or_else(ProductId::new);
        let mut own = Claimed::default();
        if claimed.products.contains(&id) {
            return Err(fault("product_repeated", "/id", "This product stands in the request twice."));
        }
        own.products.insert(id);
        let mut variants = Vec::with_capacity(product.variants.len());
        for (at, wanted) in product.variants.iter().enumerate() {
            let variant = self.place_variant(id, wanted, &format!("/variants/{at}"), claimed, &mut own)?;
            variants.push((variant, wanted));
        }
        claimed.take(own);
        Ok((id, variants))
    }

    fn place_variant(
        &self,
        product: ProductId,
        wanted: &Variant,
        pointer: &str,
        claimed: &Claimed,
        own: &mut Claimed,
    ) -> Result<VariantId, Fault> {
        let sku_at = format!("{pointer}/sku");
        let holder = self.skus.get(&wanted.sku);
        let variant = match (wanted.id, holder) {
            (_, Some((_, owner))) if *owner != product => {
                return Err(fault("sku_taken", &sku_at, "Another product has this SKU."));
            }
            (Some(id), Some((holder, _))) if id != *holder => {
                return Err(fault("sku_taken", &sku_at, "Another variant of this product has this SKU."));
            }
            (None, Some((holder, _))) => *holder,
            (Some(id), _) if self.variants.get(&id).is_some_and(|owner| *owner != product) => {
                return Err(fault("id_taken", &format!("{pointer}/id"), "Another product has this variant."));
            }
            (Some(id), _) => id,
            (None, None) => VariantId::new(),
        };
        if claimed.skus.contains(&wanted.sku) || !own.skus.insert(wanted.sku.clone()) {
            return Err(fault("sku_repeated", &sku_at, "This SKU stands in the request twice."));
        }
        if claimed.variants.contains(&variant) || !own.variants.insert(variant) {
            return Err(fault("id_taken", &format!("{pointer}/id"), "This variant stands in the request twice."));
        }
        for (at, barcode) in wanted.barcodes.iter().enumerate() {
            let barcode_at = format!("{pointer}/barcodes/{at}");
            if self.barcodes.get(barcode).is_some_and(|(holder, _)| *holder != variant) {
                return Err(fault("barcode_taken", &barcode_at, "Another variant has this barcode."));
            }
            if claimed.barcodes.contains(barcode) || !own.barcodes.insert(barcode.clone()) {
                return Err(fault("barcode_repeated", &barcode_at, "This barcode stands in the request twice."));
            }
        }
        Ok(variant)
    }
}

/// What products earlier in the same request have taken.
#[derive(Default)]
struct Claimed {
    products: HashSet<ProductId>,
    variants: HashSet<VariantId>,
    skus: HashSet<String>,
    barcodes: HashSet<String>,
}

impl Claimed {
    fn take(&mut self, own: Self) {
        self.products.extend(own.products);
        self.variants.extend(own.variants);
        self.skus.extend(own.skus);
        self.barcodes.extend(own.barcodes);
    }
}

fn fault(code: &'static str, pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { code, pointer: pointer.to_owned(), detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::product;
    use super::*;

    fn nothing_known() -> Known {
        Known { versions: HashMap::new(), skus: HashMap::new(), variants: HashMap::new(), barcodes: HashMap::new() }
    }

    #[test]
    fn one_that_is_refused_does_not_keep_the_others_out() {
        let (first, second, third) = (product("A"), product("A"), product("B"));
        let products = [first, second, third];
        let (outcomes, plan) = nothing_known().decide(&products, Expect::Any);
        assert!(matches!(&outcomes[0], Outcome::Created(_)) && matches!(&outcomes[2], Outcome::Created(_)));
        assert!(
            matches!(&outcomes[1], Outcome::Refused(fault) if fault.code == "sku_repeated" && fault.pointer == "/variants/0/sku")
        );
        assert_eq!((plan.products.len(), plan.variants.len()), (2, 2));
    }

    #[test]
    fn what_is_refused_claims_nothing() {
        let mut refused = product("A");
        refused.variants.push(refused.variants[0].clone()); // The same SKU twice in one product.
        let products = [refused, product("A")];
        let (outcomes, _) = nothing_known().decide(&products, Expect::Any);
        assert!(matches!(&outcomes[0], Outcome::Refused(_)));
        assert!(matches!(&outcomes[1], Outcome::Created(_)));
    }
}
