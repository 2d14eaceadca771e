//! What is so of sales, payments, stock and the journal whatever happened, whoever was killed meanwhile.

use super::services::postgres::Database;

/// What must be true whatever happened: each query finds what is wrong, and has to find nothing.
pub const INVARIANTS: &[(&str, &str)] = &[
    (
        "what is on hand is what the ledger adds up to",
        "select level.variant_id from stock_levels level
         where on_hand <> (select coalesce(sum(quantity), 0) from stock_moves
                           where (merchant_id, outlet_id, variant_id)
                               = (level.merchant_id, level.outlet_id, level.variant_id))",
    ),
    (
        "what is reserved is what reservations that are pending add up to",
        "select level.variant_id from stock_levels level
         where reserved > on_hand
            or reserved <> (select coalesce(sum(quantity), 0) from reservations
                            where state = 'pending' and (merchant_id, outlet_id, variant_id)
                                = (level.merchant_id, level.outlet_id, level.variant_id))",
    ),
    (
        "a reservation ends as its sale does",
        "select sale_id from reservations join sales using (merchant_id, sale_id)
         where reservations.state <> case sales.state when 'open' then 'pending' when 'completed' then 'posted'
                                                      else sales.state end",
    ),
    (
        "a sale that was ever open has reserved its lines, and no other has",
        "select sale_id from sales
         where (select string_agg(variant_id || ' ' || quantity, ', ' order by variant_id) from reservations
                where (merchant_id, sale_id) = (sales.merchant_id, sales.sale_id))
               is distinct from
               (select string_agg(variant_id || ' ' || quantity, ', ' order by variant_id)
                from (select variant_id, sum(quantity)::numeric(14, 3) as quantity from sale_lines
                      where (merchant_id, sale_id) = (sales.merchant_id, sales.sale_id) and expires_at is not null
                      group by variant_id) lines)",
    ),
    (
        "what is complete is paid and sold, and nothing else is",
        "select sale_id from sales
         cross join lateral (select coalesce(sum(amount_minor), 0) as paid, count(*) as payments, max(place) as places
                             from payments where (merchant_id, sale_id) = (sales.merchant_id, sales.sale_id)) paid
         cross join lateral (select sale_given_back(sales.merchant_id, sales.sale_id) as given) given
         cross join lateral (select coalesce(-sum(quantity), 0) as moved from stock_moves
                             where (merchant_id, document_id) = (sales.merchant_id, sales.sale_id)) moved
         cross join lateral (select sum(quantity) as wanted from sale_lines
                             where (merchant_id, sale_id) = (sales.merchant_id, sales.sale_id)) wanted
         where coalesce(places, 0) <> payments
            -- What went back while it was open was paid anew.
            or not case state when 'completed' then paid between total_minor and total_minor + given and moved = wanted
                              when 'open' then paid - given < total_minor and moved = 0
                              else paid = given and moved = 0 end",
    ),
    (
        "the journal tells of each step once",
        "with told as (select merchant_id, e ->> 'type' as type, e -> 'data' ->> 'sale' as sale,
                              e -> 'data' ->> 'payment' as payment, e -> 'data' ->> 'reason' as reason
                       from journal_entries, json_array_elements(events::json) e)
         select sale_id::text from sales
         cross join lateral (select count(*) filter (where type = 'sale.opened') as opened,
                                    count(*) filter (where type = 'sale.completed') as completed,
                                    count(*) filter (where type = 'sale.voided' and reason = sales.state) as voided,
                                    count(*) filter (where type = 'sale.voided') as all_voided,
                                    count(*) filter (where type = 'stock.reserved') as reserved
                             from told where told.merchant_id = sales.merchant_id and sale = sale_id::text) told
         where opened <> (expires_at is not null)::int or completed <> (state = 'completed')::int
            or voided <> (state in ('voided', 'expired'))::int or voided <> all_voided
            or reserved <> opened * (1 + (state <> 'open')::int)
         union all
         select payment_id::text from payments
         where 1 <> (select count(*) from told where told.merchant_id = payments.merchant_id and payment = payment_id::text
                                            and type = 'payment.captured')",
    ),
    (
        "receipts have no gaps",
        "select register_id from registers
         where last_receipt <> (select count(*) from sales
                                where (merchant_id, register_id) = (registers.merchant_id, registers.register_id))",
    ),
];

/// Holds the database against [`INVARIANTS`].
pub async fn adds_up(database: &Database) {
    for (what, query) in INVARIANTS {
        assert_eq!(database.psql(query).await.trim(), "", "{what}");
    }
    assert_ne!(database.psql("select count(*) from sales").await.trim(), "0", "there is something to add up");
}
