-- Open sales: a sale may wait for its payments. Its stock is reserved meanwhile, and nothing of it is sold before it is paid.

alter table sales
    -- One that was covered as it was rung up was never open. From open it goes on once, and never back.
    add column state      text        not null default 'completed'
        constraint sales_state_check check (state in ('open', 'completed', 'voided', 'expired')),
    -- When it ends by itself, if nothing of it is paid by then.
    add column expires_at timestamptz
        constraint sales_expires_at_check check (state <> 'open' or expires_at is not null),
    -- Until when that has to wait all the same: somebody outside has still to say what became of a payment.
    add column held_until timestamptz,
    -- Since when it should have ended, and cannot, for money was taken for it. The outlet was told so then.
    add column stalled_at timestamptz,
    -- When it was completed, voided or expired; null for one that was never open.
    add column closed_at  timestamptz
        constraint sales_closed_at_check check (state <> 'open' or closed_at is null),
    -- What somebody said who voided it.
    add column void_note  text
        constraint sales_void_note_check check (void_note is null or length(void_note) between 1 and 200 and state = 'voided');

-- Which of them are to end. Of all merchants: whoever looks asks about all at once.
create index sales_expiring_idx on sales (greatest(expires_at, held_until)) where state = 'open' and stalled_at is null;

-- What open sales keep back of a level. Nobody else may take it.
alter table stock_levels
    add column reserved numeric(14, 3) not null default 0
        constraint stock_levels_reserved_check check (reserved >= 0),
    add constraint stock_levels_available_check check (on_hand >= reserved);

-- What an open sale keeps back, all its lines of a variant together. It ends once, with its sale: posted, and then the ledger
-- has it; or voided or expired, and then nothing has moved. It has no deadline but the sale's: there are no two that could
-- differ.
create table reservations (
    merchant_id uuid           not null,
    sale_id     uuid           not null,
    variant_id  uuid           not null,
    outlet_id   uuid           not null,
    quantity    numeric(14, 3) not null constraint reservations_quantity_check check (quantity > 0),
    state       text           not null default 'pending'
        constraint reservations_state_check check (state in ('pending', 'posted', 'voided', 'expired')),
    made_at     timestamptz    not null default now(),
    ended_at    timestamptz
        constraint reservations_ended_at_check check ((state = 'pending') = (ended_at is null)),
    constraint reservations_pkey primary key (merchant_id, sale_id, variant_id),
    constraint reservations_sale_fkey foreign key (merchant_id, sale_id) references sales,
    constraint reservations_level_fkey foreign key (merchant_id, outlet_id, variant_id) references stock_levels
);

-- A sale may be paid in parts, each in a transaction of its own. Those from before there was this column were recorded with
-- their sale.
alter table payments add column recorded_at timestamptz;
alter table payments alter column recorded_at set default now();
-- Whoever adds one holds the sale's lock; were it not so, this would find it.
alter table payments add constraint payments_place_key unique (merchant_id, sale_id, place);
drop index payments_sale_idx;

-- Open sales that are to end: so many at most, and so many of one merchant, the oldest of each first. Where there are more,
-- every merchant's first come before anybody's second, so that nobody waits for another's many.
create function sales_due(of_one_max integer, due_max integer) returns table (merchant uuid, sale uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, sale_id
    from (select merchant_id, sale_id, row_number() over (partition by merchant_id order by greatest(expires_at, held_until),
                                                          sale_id) as place
          from sales
          where state = 'open' and stalled_at is null and greatest(expires_at, held_until) <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, merchant_id limit least(due_max, 10000)
$$;
revoke all on function sales_due(integer, integer) from public;
grant execute on function sales_due(integer, integer) to tillwire_app;
-- For sales_due, which runs as the owner.
create policy due on sales for select to current_user using (state = 'open');

alter table reservations enable row level security;
alter table reservations force row level security;
create policy own on reservations to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

grant select, insert, update (state, ended_at) on reservations to tillwire_app;
grant update (state, business_date, expires_at, held_until, stalled_at, closed_at, void_note) on sales to tillwire_app;
