-- A till for each client of pgbench: all that it needs to repeat a sale that was made at it.
create table pgbench_tills as
select row_number() over (order by sale.merchant_id, sale.register_id) - 1 as till,
       sale.merchant_id as merchant, sale.actor_id as actor, sale.outlet_id as outlet, sale.register_id as register,
       sale.merchant_id::text || ' ' || answer.route || ' ' || answer.key as lock, answer.route, answer.fingerprint,
       sale.occurred_at, sale.business_date, sale.currency, sale.total_minor as total, line.*, tender.*,
       entry.events, answer.status, answer.reply
from (select distinct on (merchant_id, register_id) * from sales order by merchant_id, register_id, number) sale
join idempotency_keys answer
  on answer.merchant_id = sale.merchant_id and answer.reply::jsonb ->> 'id' = sale.sale_id::text
join journal_entries entry on entry.merchant_id = answer.merchant_id and entry.seq = answer.seq
cross join lateral (
    select array_agg(line order by variant_id) as lines, array_agg(variant_id order by variant_id) as variants,
           array_agg(sku order by variant_id) as skus, array_agg(name order by variant_id) as names,
           array_agg(quantity order by variant_id) as quantities, array_agg(-quantity order by variant_id) as changes,
           array_agg(unit_price_minor order by variant_id) as prices,
           array_agg(discount_minor order by variant_id) as discounts,
           array_agg(total_minor order by variant_id) as totals
    from sale_lines where sale_lines.merchant_id = sale.merchant_id and sale_lines.sale_id = sale.sale_id
) line
cross join lateral (
    select array_agg(place order by place) as places, array_agg(method order by place) as methods,
           array_agg(amount_minor order by place) as amounts, array_agg(tendered_minor order by place) as tendered,
           array_agg(change_minor order by place) as change
    from payments where payments.merchant_id = sale.merchant_id and payments.sale_id = sale.sale_id
) tender;
grant select on pgbench_tills to tillwire_app;
