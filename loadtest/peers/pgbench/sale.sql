-- What the hub asks of PostgreSQL for one `POST /v1/outlets/{outlet}/sales`, statement by statement. A test looks for each
-- among the hub's own. Every client is a till, and sells again and again what `tills.sql` found that it has sold.
\if :is_new
select merchant, actor, outlet, register, lock, route, fingerprint, occurred_at, business_date, currency, total, lines,
       variants, skus, names, quantities, prices, discounts, totals, places, methods, amounts, tendered, change, changes,
       events, status, reply
from pgbench_tills where till = :client_id \gset
\set is_new 0
\endif
begin;
select set_config('tillwire.merchant', :merchant, true) as merchant,
       set_config('statement_timeout', '10s', true) as statement_timeout,
       set_config('lock_timeout', '3s', true) as lock_timeout,
       set_config('idle_in_transaction_session_timeout', '2s', true) as idle_timeout,
       clock_timestamp() as now,
       case when :lock::text is null then true
            else pg_try_advisory_xact_lock(hashtextextended(:lock, 0)) end as alone,
       -- The hub makes these itself.
       gen_random_uuid() as sale, gen_random_uuid()::text as key, gen_random_uuid() as trace, array[gen_random_uuid()]::text as payments,
       array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()]::text as moves \gset
select issued_until from revocations where merchant_id = :merchant and staff_id = :actor;
select fingerprint, status, reply, seq, tag from idempotency_keys
where merchant_id = :merchant and route = :route and key = :key;
update registers register
set last_receipt = last_receipt + case when :brings_number then 0 else 1 end
from outlets outlet, merchants merchant
where register.merchant_id = :merchant and register.outlet_id = :outlet and register.register_id = :register
  and outlet.merchant_id = :merchant and outlet.outlet_id = :outlet and merchant.merchant_id = :merchant
returning outlet.code as outlet_code, register.code as register_code, last_receipt, currency,
          (:occurred_at::timestamptz at time zone time_zone)::date as business_date;
select variant_id, sku, product.name, variant.name as variant_name, price_minor, active
from variants variant join products product using (merchant_id, product_id)
where merchant_id = :merchant and variant_id = any(:variants);
insert into sales (merchant_id, sale_id, outlet_id, register_id, number, business_date, currency,
                   subtotal_minor, discount_minor, total_minor, actor_id, occurred_at)
values (:merchant, :sale, :outlet, :register, :key, :business_date, :currency, :total, :discount, :total, :actor,
        :occurred_at)
on conflict on constraint sales_number_key do nothing;
insert into sale_lines (merchant_id, sale_id, line, variant_id, sku, name, quantity, unit_price_minor,
                        discount_minor, total_minor)
select :merchant, :sale, * from unnest(:lines::int[], :variants::uuid[], :skus::text[], :names::text[], :quantities::numeric[], :prices::bigint[],
                                       :discounts::bigint[], :totals::bigint[]);
insert into payments (merchant_id, sale_id, captured_at, payment_id, place, method, amount_minor,
                      tendered_minor, change_minor)
select :merchant, :sale, :occurred_at, * from unnest(:payments::uuid[], :places::int[], :methods::text[], :amounts::bigint[], :tendered::bigint[], :change::bigint[]);
select variant_id, on_hand, reserved from stock_levels
where merchant_id = :merchant and outlet_id = :outlet and variant_id = any(:variants)
order by variant_id for update;
with wanted as (
  select * from unnest(:moves::uuid[], :variants::uuid[], :changes::numeric[]) as w (move_id, variant_id, change)
), changed as (
  update stock_levels level
  set on_hand = level.on_hand + wanted.change, version = level.version + 1
  from wanted
  where level.merchant_id = :merchant and level.outlet_id = :outlet and level.variant_id = wanted.variant_id
    and level.on_hand + wanted.change >= level.reserved
  returning wanted.move_id, level.variant_id, wanted.change, level.on_hand
), moved as (
  insert into stock_moves (merchant_id, move_id, outlet_id, variant_id, quantity, on_hand, reason,
                           document_id, actor_id, occurred_at)
  select :merchant, move_id, :outlet, variant_id, change, on_hand, :reason, :sale, :actor, :occurred_at from changed
  returning 1
)
select count(*) as written from moved;
with head as (
  update journal_heads
  set seq = seq + 1, prev = tag,
      tag = substring(sha256(tag || uuid_send(merchant_id) || int8send(seq + 1)
                             || convert_to(:events, 'UTF8')) from 1 for 8),
      recorded_at = greatest(recorded_at, clock_timestamp())
  where merchant_id = :merchant
  returning seq, prev, tag, recorded_at
), entry as (
  insert into journal_entries (merchant_id, seq, recorded_at, prev, tag, events, trace)
  select :merchant, seq, recorded_at, prev, tag, :events, :trace from head
), answer as (
  insert into idempotency_keys (merchant_id, route, key, fingerprint, status, reply, seq, tag)
  select :merchant, :route, :key, :fingerprint, :status, :reply, seq, tag from head where :route::text is not null
)
select seq, prev, tag, recorded_at from head;
commit;
