//! Chunks: a list of products is put a part at a time, so that no entry outgrows the journal's bound.

use super::Product;

/// The most products that are put in one transaction: with [`CHUNK_BYTES_MAX`] it keeps an entry well below its limit.
pub const CHUNK_ITEMS_MAX: usize = 200;
/// The most bytes of names, codes and barcodes, as an entry has them, that are put in one transaction.
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
    let own = [&product.department, &product.category, &product.brand, &product.package].into_iter().flatten();
    let of_variants = product.variants.iter().flat_map(|it| [&it.sku].into_iter().chain(&it.name).chain(&it.barcodes));
    let texts = [&product.name].into_iter().chain(own).chain(of_variants);
    texts.map(|text| written(text)).sum::<usize>() + 64 * product.variants.len()
}

/// How many bytes a text takes as JSON: a quote and a backslash are two each. Other characters that JSON escapes never come
/// here.
fn written(text: &str) -> usize {
    text.len() + text.matches(['"', '\\']).count()
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

    #[test]
    fn quotes_and_backslashes_weigh_what_they_take_in_an_entry() {
        let named = |letter: &str| -> Vec<Product> {
            let name = letter.repeat(CHUNK_BYTES_MAX / 2 - 100);
            ["1", "2"].iter().map(|sku| Product { name: name.clone(), ..product(sku) }).collect()
        };
        assert_eq!(chunks(&named("x")).count(), 1);
        for letter in ["\"", "\\"] {
            assert_eq!(chunks(&named(letter)).count(), 2, "{letter}");
        }
    }
}
