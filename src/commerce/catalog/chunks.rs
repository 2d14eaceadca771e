//! Chunks: a list of products is put a part at a time, so that no entry outgrows the journal's bound.

use super::Product;

/// The most products that are put in one transaction: with [`CHUNK_BYTES_MAX`] it keeps an entry well below its limit.
pub const CHUNK_ITEMS_MAX: usize = 200;
/// The most bytes of names, codes and barcodes that are put in one transaction.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

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
    use super::super::tests::product;
    use super::*;

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
