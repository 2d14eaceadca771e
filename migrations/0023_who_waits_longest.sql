-- What is due is given to whoever attends to it in an order that starves nobody: of each merchant as much as of the others, then
-- whoever waits longest; the merchants' ids, which grow with time, had let the newest wait while there was more than room. A
-- payment of which there is said to be something new counts as if it had waited for ten seconds already.

create or replace function payments_due(of_one_max integer, due_max integer) returns table (merchant uuid, payment uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, payment_id
    from (select merchant_id, payment_id, since, row_number() over (partition by merchant_id order by since, payment_id) as place
          from (select merchant_id, payment_id,
                       case when prompted then next_at - interval '10 seconds' else next_at end as since
                from payment_attempts
                where next_at <= now() and coalesce(leased_until, '-infinity') <= now()) waiting) due
    where place <= least(of_one_max, 1000)
    order by place, since limit least(due_max, 10000)
$$;

create or replace function provider_inbox_due(of_one_max integer, due_max integer) returns table (merchant uuid, inbox uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, inbox_id
    from (select merchant_id, inbox_id, due_at,
                 row_number() over (partition by merchant_id order by due_at, inbox_id) as place
          from provider_inbox
          where outcome is null and due_at <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, due_at limit least(due_max, 10000)
$$;

create or replace function refunds_due(of_one_max integer, due_max integer) returns table (merchant uuid, refund uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, refund_id
    from (select merchant_id, refund_id, next_at,
                 row_number() over (partition by merchant_id order by next_at, refund_id) as place
          from refunds
          where next_at <= now() and coalesce(leased_until, '-infinity') <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, next_at limit least(due_max, 10000)
$$;

create or replace function sales_due(of_one_max integer, due_max integer) returns table (merchant uuid, sale uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, sale_id
    from (select merchant_id, sale_id, greatest(expires_at, held_until) as due_at,
                 row_number() over (partition by merchant_id order by greatest(expires_at, held_until), sale_id) as place
          from sales
          where state = 'open' and stalled_at is null and greatest(expires_at, held_until) <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, due_at limit least(due_max, 10000)
$$;
