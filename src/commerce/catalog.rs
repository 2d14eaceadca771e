//! The catalogue: products, their variants, barcodes and prices.
//!
//! There is one way to change it, [`put`], for one product and for thousands: it decides for each product by itself, so
//! that one that is refused does not keep the others out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{ProductChanged, VariantState};
use tillwire_channels::{Event, MerchantId, ProductId, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::stock::{Named, full_name};
use crate::error::{Error, Fault, Result};
use crate::journal::MerchantTx;

/// The most products that are listed at once.
pub const PAGE_MAX: u32 = 500;
/// The most products that are put in one transaction: with [`CHUNK_BYTES_MAX`] it keeps an entry well below its limit.
pub const CHUNK_ITEMS_MAX: usize = 200;
/// The most bytes of names, codes and barcodes that are put in one transaction.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// The most variants of a product.
pub const VARIANTS_MAX: usize = 50;
/// The most barcodes of a variant.
pub const BARCODES_MAX: usize = 10;

/// A product with its variants, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProductView {
    pub id: ProductId,
    pub name: String,
    pub department: Option<String>,
    pub category: Option<String>,
    pub brand: Option<String>,
    pub package: Option<String>,
    /// ISO 4217; prices are integers in its minor unit.
    pub currency: String,
    /// Whether it can be sold.
    pub active: bool,
    /// Counts the product's changes, from 1.
    pub version: i64,
    pub variants: Vec<VariantState>,
}

/// A product as it is to be. Variants that it has already and that are not named stay as they are.
#[derive(Clone, Debug)]
pub struct Product {
    /// Without it, the product that has the first variant's SKU is meant, or a new one.
    pub id: Option<ProductId>,
    pub name: String,
    pub department: Option<String>,
    pub category: Option<String>,
    pub brand: Option<String>,
    pub package: Option<String>,
    pub active: bool,
    pub variants: Vec<Variant>,
}

/// A variant as it is to be.
#[derive(Clone, Debug)]
pub struct Variant {
    pub id: Option<VariantId>,
    pub sku: String,
    pub name: Option<String>,
    pub price_minor: i64,
    pub barcodes: Vec<String>,
}

/// What must be true of a product before it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It must not exist.
    New,
    /// It must exist, in this version if one is given.
    Existing { version: Option<i64> },
    /// Either.
    Any,
}

/// What became of one product.
#[derive(Clone, Debug)]
pub enum Outcome {
    Created(ProductId),
    Changed(ProductId),
    Refused(Fault),
}

/// Puts products into the catalogue, each by itself: what is refused does not keep the others out.
///
/// The entry holds one `product.changed` for each that was put. Callers keep to the chunk's bounds.
pub async fn put(tx: &mut MerchantTx, products: &[Product], expect: Expect) -> Result<Vec<Outcome>> {
    lock(tx).await?;
    let known = Known::read(tx, products).await?;
    let (outcomes, plan) = known.decide(products, expect);
    write(tx, &plan).await?;
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = plan.products.iter().map(|(id, _)| id.0).collect();
    for product in read(tx.sql(), merchant, &ids).await? {
        let now = tx.now();
        tx.append(&Event::ProductChanged(changed(product)), now)?;
    }
    Ok(outcomes)
}

/// Puts one product; what is refused is an error.
pub async fn put_one(tx: &mut MerchantTx, product: Product, expect: Expect) -> Result<ProductView> {
    let outcome = put(tx, std::slice::from_ref(&product), expect).await?.pop();
    match outcome {
        Some(Outcome::Created(id) | Outcome::Changed(id)) => {
            let merchant = tx.merchant();
            get(tx.sql(), merchant, id).await
        }
        Some(Outcome::Refused(Fault { code: "product_not_found", .. })) => Err(Error::NotFound("product")),
        Some(Outcome::Refused(fault)) => Err(Error::conflict_at(fault.code, fault.pointer, fault.detail)),
        None => Err(anyhow::anyhow!("a product without an outcome").into()),
    }
}

/// Writers of one catalogue take turns: what they decide on (who has a SKU, a barcode) is not in rows to be locked.
async fn lock(tx: &mut MerchantTx) -> Result<()> {
    let name = format!("{} catalog", tx.merchant());
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", name).execute(tx.sql()).await?;
    Ok(())
}

/// What the catalogue already says of the products that are to be put.
struct Known {
    versions: HashMap<ProductId, i64>,
    /// By SKU.
    skus: HashMap<String, (VariantId, ProductId)>,
    variants: HashMap<VariantId, ProductId>,
    /// By barcode: the variant, and the product it belongs to.
    barcodes: HashMap<String, (VariantId, ProductId)>,
}

/// What is to be written.
#[derive(Default)]
struct Plan<'a> {
    products: Vec<(ProductId, &'a Product)>,
    variants: Vec<(ProductId, VariantId, &'a Variant)>,
}

/// The ids that a product and its variants get.
type Placed<'a> = (ProductId, Vec<(VariantId, &'a Variant)>);

impl Known {
    async fn read(tx: &mut MerchantTx, products: &[Product]) -> Result<Self> {
        let merchant = tx.merchant();
        let ids: Vec<Uuid> = products.iter().filter_map(|product| product.id).map(|id| id.0).collect();
        let variants = || products.iter().flat_map(|product| &product.variants);
        let variant_ids: Vec<Uuid> = variants().filter_map(|variant| variant.id).map(|id| id.0).collect();
        let skus: Vec<String> = variants().map(|variant| variant.sku.clone()).collect();
        let barcodes: Vec<String> = variants().flat_map(|variant| variant.barcodes.clone()).collect();
        let rows = sqlx::query!(
            "select variant_id, product_id, sku from variants
             where merchant_id = $1 and (sku = any($2) or product_id = any($3) or variant_id = any($4))",
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
    fn decide<'a>(&self, products: &'a [Product], expect: Expect) -> (Vec<Outcome>, Plan<'a>) {
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

async fn write(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    if plan.products.is_empty() {
        return Ok(());
    }
    let merchant = tx.merchant();
    write_products(tx, plan).await?;
    write_variants(tx, plan).await?;
    let ids: Vec<Uuid> = plan.variants.iter().map(|(_, id, _)| id.0).collect();
    sqlx::query!("delete from barcodes where merchant_id = $1 and variant_id = any($2)", merchant.0, &ids)
        .execute(tx.sql())
        .await?;
    let (barcodes, of): (Vec<String>, Vec<Uuid>) = plan
        .variants
        .iter()
        .flat_map(|(_, id, variant)| variant.barcodes.iter().map(|barcode| (barcode.clone(), id.0)))
        .unzip();
    sqlx::query!(
        "insert into barcodes (merchant_id, barcode, variant_id) select $1, * from unnest($2::text[], $3::uuid[])",
        merchant.0,
        &barcodes,
        &of,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn write_products(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = plan.products.iter().map(|(id, _)| id.0).collect();
    let column = |of: fn(&Product) -> Option<String>| plan.products.iter().map(|(_, it)| of(it)).collect::<Vec<_>>();
    let active: Vec<bool> = plan.products.iter().map(|(_, product)| product.active).collect();
    sqlx::query!(
        "insert into products (merchant_id, product_id, name, department, category, brand, package, active)
         select $1, * from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[])
         on conflict (merchant_id, product_id) do update
         set name = excluded.name, department = excluded.department, category = excluded.category,
             brand = excluded.brand, package = excluded.package, active = excluded.active,
             version = products.version + 1",
        merchant.0,
        &ids,
        &column(|product| Some(product.name.clone())) as &[Option<String>],
        &column(|product| product.department.clone()) as &[Option<String>],
        &column(|product| product.category.clone()) as &[Option<String>],
        &column(|product| product.brand.clone()) as &[Option<String>],
        &column(|product| product.package.clone()) as &[Option<String>],
        &active,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn write_variants(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    let merchant = tx.merchant();
    let mut places = BTreeMap::new();
    let (mut ids, mut products, mut place, mut skus, mut names, mut prices) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (product, id, variant) in &plan.variants {
        let next = places.entry(*product).and_modify(|place| *place += 1).or_insert(1_i32);
        ids.push(id.0);
        products.push(product.0);
        place.push(*next);
        skus.push(variant.sku.clone());
        names.push(variant.name.clone());
        prices.push(variant.price_minor);
    }
    sqlx::query!(
        "insert into variants (merchant_id, variant_id, product_id, place, sku, name, price_minor)
         select $1, * from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::bigint[])
         on conflict (merchant_id, variant_id) do update
         set place = excluded.place, sku = excluded.sku, name = excluded.name, price_minor = excluded.price_minor",
        merchant.0,
        &ids,
        &products,
        &place,
        &skus,
        &names as &[Option<String>],
        &prices,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Products after an id, in the order of their ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    after: Option<ProductId>,
    limit: u32,
) -> Result<Vec<ProductView>> {
    let ids = sqlx::query_scalar!(
        "select product_id from products
         where merchant_id = $1 and ($2::uuid is null or product_id > $2) order by product_id limit $3",
        merchant.0,
        after.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(&mut *sql)
    .await?;
    read(sql, merchant, &ids).await
}

/// One product.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, product: ProductId) -> Result<ProductView> {
    read(sql, merchant, &[product.0]).await?.pop().ok_or(Error::NotFound("product"))
}

/// The products that have this SKU or barcode: one at most of each.
pub async fn find(sql: &mut PgConnection, merchant: MerchantId, code: &str) -> Result<Vec<ProductView>> {
    let ids = sqlx::query_scalar!(
        r#"select product_id as "id!" from variants where merchant_id = $1 and sku = $2
           union
           select product_id from barcodes join variants using (merchant_id, variant_id)
           where merchant_id = $1 and barcode = $2"#,
        merchant.0,
        code,
    )
    .fetch_all(&mut *sql)
    .await?;
    read(sql, merchant, &ids).await
}

async fn read(sql: &mut PgConnection, merchant: MerchantId, ids: &[Uuid]) -> Result<Vec<ProductView>> {
    let products = sqlx::query!(
        "select product_id, products.name, department, category, brand, package, active, version, currency
         from products join merchants using (merchant_id)
         where merchant_id = $1 and product_id = any($2) order by product_id",
        merchant.0,
        ids,
    )
    .fetch_all(&mut *sql)
    .await?;
    let variants = sqlx::query!(
        r#"select product_id, variant_id, sku, name, price_minor,
                  array(select barcode from barcodes
                        where barcodes.merchant_id = $1 and barcodes.variant_id = variants.variant_id
                        order by barcode) as "barcodes!"
           from variants where merchant_id = $1 and product_id = any($2) order by product_id, place, sku"#,
        merchant.0,
        ids,
    )
    .fetch_all(sql)
    .await?;
    let mut by_product: HashMap<Uuid, Vec<VariantState>> = HashMap::new();
    for row in variants {
        by_product.entry(row.product_id).or_default().push(VariantState {
            variant: VariantId(row.variant_id),
            sku: row.sku,
            name: row.name,
            price_minor: row.price_minor,
            barcodes: row.barcodes,
        });
    }
    Ok(products
        .into_iter()
        .map(|row| ProductView {
            id: ProductId(row.product_id),
            variants: by_product.remove(&row.product_id).unwrap_or_default(),
            name: row.name,
            department: row.department,
            category: row.category,
            brand: row.brand,
            package: row.package,
            currency: row.currency,
            active: row.active,
            version: row.version,
        })
        .collect())
}

/// What a sale needs to know of a variant.
#[derive(Clone, Debug)]
pub struct Priced {
    pub sku: String,
    pub name: String,
    pub price_minor: i64,
    pub active: bool,
}

/// Prices and names of variants. What is missing is not the merchant's.
pub async fn prices(
    tx: &mut MerchantTx,
    variants: impl Iterator<Item = VariantId>,
) -> Result<BTreeMap<VariantId, Priced>> {
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = variants.map(|id| id.0).collect::<BTreeSet<_>>().into_iter().collect();
    let rows = sqlx::query!(
        "select variant_id, sku, product.name, variant.name as variant_name, price_minor, active
         from variants variant join products product using (merchant_id, product_id)
         where merchant_id = $1 and variant_id = any($2)",
        merchant.0,
        &ids,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let name = full_name(&row.name, row.variant_name.as_deref());
            let priced = Priced { sku: row.sku, name, price_minor: row.price_minor, active: row.active };
            (VariantId(row.variant_id), priced)
        })
        .collect())
}

/// Names of variants.
pub async fn names(
    tx: &mut MerchantTx,
    variants: impl Iterator<Item = VariantId>,
) -> Result<BTreeMap<VariantId, Named>> {
    let prices = prices(tx, variants).await?;
    Ok(prices.into_iter().map(|(id, Priced { sku, name, .. })| (id, Named { sku, name })).collect())
}

fn changed(product: ProductView) -> ProductChanged {
    let ProductView { id, name, department, category, brand, package, currency, active, version, variants } = product;
    ProductChanged { product: id, name, department, category, brand, package, currency, active, version, variants }
}

/// Cuts a list of products into chunks that are put in a transaction each.
pub fn chunks(products: &[Product]) -> impl Iterator<Item = &[Product]> {
    let mut rest = products;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut bytes, mut take) = (0, 0);
        while take < rest.len() && take < CHUNK_ITEMS_MAX {
            bytes += weight(&rest[take]);
            if take > 0 && bytes > CHUNK_BYTES_MAX {
                break;
            }
            take += 1;
        }
        let (chunk, left) = rest.split_at(take);
        rest = left;
        Some(chunk)
    })
}

/// About how many bytes of text a product brings into an entry.
fn weight(product: &Product) -> usize {
    let texts = [&product.department, &product.category, &product.brand, &product.package];
    let own: usize = product.name.len() + texts.into_iter().flatten().map(String::len).sum::<usize>();
    let variants: usize = product
        .variants
        .iter()
        .map(|it| {
            it.sku.len()
                + it.name.as_ref().map_or(0, String::len)
                + it.barcodes.iter().map(String::len).sum::<usize>()
                + 64
        })
        .sum();
    own + variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(sku: &str) -> Product {
        let variant = Variant { id: None, sku: sku.to_owned(), name: None, price_minor: 1_000, barcodes: vec![] };
        Product {
            id: None,
            name: "Roti".to_owned(),
            department: None,
            category: None,
            brand: None,
            package: None,
            active: true,
            variants: vec![variant],
        }
    }

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

    #[test]
    fn chunks_keep_order_and_bounds() {
        let products: Vec<Product> = (0..450).map(|n| product(&n.to_string())).collect();
        let sizes: Vec<usize> = chunks(&products).map(<[Product]>::len).collect();
        assert_eq!(sizes, [200, 200, 50]);
        let wide: Vec<Product> =
            (0..3).map(|n| Product { name: "x".repeat(CHUNK_BYTES_MAX / 2), ..product(&n.to_string()) }).collect();
        assert_eq!(chunks(&wide).count(), 3);
    }
}
