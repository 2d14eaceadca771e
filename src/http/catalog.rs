//! `/v1/products`: the catalogue.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::{Deserialize, Serialize};
use tillwire_channels::{ProductId, VariantId};
use utoipa::{IntoParams, ToSchema};

use super::extract::{At, IdempotencyKey, IfMatch, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, bounded, cursor};
use crate::commerce::catalog::{
    self, BARCODES_MAX, Expect, Outcome, PAGE_MAX, Product, ProductView, VARIANTS_MAX, Variant,
};
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// The most products of one import.
const IMPORT_ITEMS_MAX: usize = 50_000;

/// A product as it is to be. Variants that it has already and that are not named stay as they are.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutProduct {
    /// A UUID of your own. Left out, an import takes the product that has the first variant's SKU.
    #[garde(skip)]
    pub id: Option<ProductId>,
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub name: String,
    #[garde(inner(length(chars, max = 100), custom(printable)))]
    pub department: Option<String>,
    #[garde(inner(length(chars, max = 100), custom(printable)))]
    pub category: Option<String>,
    #[garde(inner(length(chars, max = 100), custom(printable)))]
    pub brand: Option<String>,
    #[garde(inner(length(chars, max = 100), custom(printable)))]
    pub package: Option<String>,
    /// Whether it can be sold.
    #[garde(skip)]
    #[serde(default = "yes")]
    pub active: bool,
    #[garde(length(min = 1, max = VARIANTS_MAX), dive)]
    pub variants: Vec<PutVariant>,
}

/// A variant as it is to be.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutVariant {
    /// A UUID of your own. Left out, the variant that has the SKU is meant, or a new one.
    #[garde(skip)]
    pub id: Option<VariantId>,
    #[garde(length(chars, min = 1, max = 64), custom(printable))]
    pub sku: String,
    /// What tells it from the product's other variants.
    #[garde(inner(length(chars, min = 1, max = 100), custom(printable)))]
    pub name: Option<String>,
    /// For one unit, in the currency's minor unit: whole rupiah.
    #[garde(range(min = 0, max = AMOUNT_MAX_MINOR))]
    pub price_minor: i64,
    #[garde(length(max = BARCODES_MAX), inner(length(chars, min = 1, max = 64), custom(printable)))]
    #[serde(default)]
    pub barcodes: Vec<String>,
}

fn yes() -> bool {
    true
}

impl From<PutProduct> for Product {
    fn from(put: PutProduct) -> Self {
        let PutProduct { id, name, department, category, brand, package, active, variants } = put;
        let variants = variants
            .into_iter()
            .map(|PutVariant { id, sku, name, price_minor, barcodes }| Variant { id, sku, name, price_minor, barcodes })
            .collect();
        Self { id, name, department, category, brand, package, active, variants }
    }
}

/// Which products.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListProducts {
    /// Only the product that has this SKU or barcode: what a scanner asks.
    pub code: Option<String>,
    /// How many items, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Products, in the order of their ids.
#[utoipa::path(get, path = "/v1/products", tag = "catalog", params(ListProducts),
    responses((status = 200, body = Page<ProductView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<ListProducts>,
) -> Result<Json<Page<ProductView>>> {
    staff.may(Permission::ReadCatalog)?;
    let limit = bounded(params.limit, 50, PAGE_MAX)?;
    let after = cursor(params.cursor.as_deref())?.map(ProductId);
    if let Some(Err(error)) = params.code.as_deref().map(|code| printable(code, &())) {
        return Err(Error::invalid("invalid_parameter", "code", error.message()));
    }
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let products = match params.code {
        Some(code) => catalog::find(tx.sql(), staff.merchant, &code, after).await?,
        None => catalog::list(tx.sql(), staff.merchant, after, limit).await?,
    };
    Ok(Json(Page::cut(products, limit, |product| product.id.0)))
}

/// One product.
#[utoipa::path(get, path = "/v1/products/{product}", tag = "catalog", params(("product" = ProductId, Path)),
    responses((status = 200, body = ProductView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(product): At<ProductId>) -> Result<Json<ProductView>> {
    staff.may(Permission::ReadCatalog)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(catalog::get(tx.sql(), staff.merchant, product).await?))
}

/// Adds a product.
#[utoipa::path(post, path = "/v1/products", tag = "catalog", request_body = PutProduct,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = ProductView), (status = "default", body = Problem)))]
pub async fn create(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<PutProduct>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ChangeCatalog)?;
    let once = key.once("POST /v1/products", &bytes);
    let product = Product::from(body);
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| catalog::put_one(tx, product.clone(), Expect::New).boxed())
        .await
}

/// Replaces a product. With `If-Match: "3"` only if it is still at version 3, else 412.
#[utoipa::path(put, path = "/v1/products/{product}", tag = "catalog", request_body = PutProduct,
    params(("product" = ProductId, Path), ("If-Match" = Option<String>, Header, description = "The version, quoted."),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = ProductView), (status = "default", body = Problem)))]
pub async fn replace(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<ProductId>,
    key: IdempotencyKey,
    condition: IfMatch,
    Valid { body, bytes }: Valid<PutProduct>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ChangeCatalog)?;
    if body.id.is_some_and(|given| given != id) {
        return Err(Error::invalid("invalid_field", "/id", "The path names another product."));
    }
    let once = key.once_if("PUT /v1/products/{product}", &bytes, &condition);
    let product = Product { id: Some(id), ..body.into() };
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            catalog::put_one(tx, product.clone(), Expect::Existing { version: condition.version }).boxed()
        })
        .await
}

/// Many products at once.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportProducts {
    /// Each is checked and put by itself.
    #[garde(length(min = 1, max = IMPORT_ITEMS_MAX))]
    #[schema(value_type = Vec<PutProduct>)]
    items: Vec<serde_json::Value>,
}

/// What an import came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    pub created: usize,
    pub changed: usize,
    pub refused: usize,
    /// In the order of the items.
    pub results: Vec<ImportResult>,
}

/// What became of one item.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportResult {
    pub index: usize,
    pub status: ImportStatus,
    /// The product, unless it was refused.
    pub id: Option<ProductId>,
    /// Why it was refused; pointers are into the item.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<ImportError>,
}

/// What is wrong with an item.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportError {
    pub pointer: String,
    pub code: String,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportStatus {
    Created,
    Changed,
    Refused,
}

/// Puts many products at once, up to a whole catalogue, with a result for each. New ones are added and known ones
/// replaced; one that is refused does not keep the others out.
///
/// It is done in chunks of a transaction each. After a failure half-way, the same request with the same key goes on
/// where it stopped.
#[utoipa::path(post, path = "/v1/products/import", tag = "catalog", request_body = ImportProducts,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = Imported), (status = "default", body = Problem)))]
pub async fn import(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<ImportProducts>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ChangeCatalog)?;
    let once = key.once("POST /v1/products/import", &bytes);
    let mut results = Vec::with_capacity(body.items.len());
    let (mut products, mut indexes) = (Vec::new(), Vec::new());
    for (index, item) in body.items.into_iter().enumerate() {
        match read_item(item) {
            Ok(product) => {
                products.push(product);
                indexes.push(index);
            }
            Err(errors) => results.push(ImportResult { index, status: ImportStatus::Refused, id: None, errors }),
        }
    }
    let (mut done, mut position, mut replayed) = (0, None, true);
    for (number, chunk) in catalog::chunks(&products).enumerate() {
        let (items, at) = (chunk.to_vec(), indexes[done..done + chunk.len()].to_vec());
        done += chunk.len();
        let written = hub
            .journal
            .write(staff.caller(), Some(once.part(number)), 200, move |tx| {
                let (items, at) = (items.clone(), at.clone());
                async move {
                    let outcomes = catalog::put(tx, &items, Expect::Any).await?;
                    Ok(at.into_iter().zip(outcomes).map(|(index, it)| result(index, it)).collect::<Vec<_>>())
                }
                .boxed()
            })
            .await?;
        results.extend(serde_json::from_str::<Vec<ImportResult>>(&written.reply)?);
        position = written.position.or(position);
        replayed &= written.replayed;
    }
    results.sort_by_key(|result| result.index);
    let count = |status| results.iter().filter(|result| result.status == status).count();
    let imported = Imported {
        created: count(ImportStatus::Created),
        changed: count(ImportStatus::Changed),
        refused: count(ImportStatus::Refused),
        results,
    };
    Ok(Written { status: 200, reply: serde_json::to_string(&imported)?, position, replayed: replayed && done > 0 })
}

fn read_item(item: serde_json::Value) -> Result<Product, Vec<ImportError>> {
    let put: PutProduct = serde_path_to_error::deserialize(item).map_err(|error| {
        let pointer = super::extract::pointer(&error.path().to_string());
        vec![ImportError { pointer, code: "invalid_field".to_owned(), detail: error.inner().to_string() }]
    })?;
    put.validate().map_err(|report| {
        super::extract::faults(&report)
            .into_iter()
            .map(|fault| ImportError { pointer: fault.pointer, code: fault.code.to_owned(), detail: fault.detail })
            .collect::<Vec<_>>()
    })?;
    Ok(put.into())
}

fn result(index: usize, outcome: Outcome) -> ImportResult {
    let (status, id, errors) = match outcome {
        Outcome::Created(id) => (ImportStatus::Created, Some(id), vec![]),
        Outcome::Changed(id) => (ImportStatus::Changed, Some(id), vec![]),
        Outcome::Refused(fault) => {
            let error = ImportError { pointer: fault.pointer, code: fault.code.to_owned(), detail: fault.detail };
            (ImportStatus::Refused, None, vec![error])
        }
    };
    ImportResult { index, status, id, errors }
}
