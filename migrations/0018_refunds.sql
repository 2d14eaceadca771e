-- Refunds: money that goes back to the customer by the provider that brought it; and who settled what only a person can.

-- A refund is written down before its provider is asked, under the id that is also its key there. One that somebody made at the
-- provider's own dashboard is written down when we hear of it, so that the sum is right.
create table refunds (
    merchant_id  uuid        not null,
    refund_id    uuid        not null,
    payment_id   uuid        not null,
    -- The sale that the payment pays or, where it was late, once was for.
    sale_id      uuid        not null,
    outlet_id    uuid        not null,
    register_id  uuid        not null,
    origin       text        not null constraint refunds_origin_check check (origin in ('hub', 'provider')),
    amount_minor bigint      not null constraint refunds_amount_check check (amount_minor > 0),
    currency     text        not null,
    reason       text        not null constraint refunds_reason_check
        check (reason in ('customer', 'duplicate', 'canceled', 'fraud', 'other')),
    note         text        not null constraint refunds_note_check check (length(note) between 1 and 200),
    state        text        not null constraint refunds_state_check
        check (state in ('created', 'unknown', 'pending', 'succeeded', 'failed', 'canceled')),
    -- As the provider names it; and its key there, if that was not ours.
    refund_there text        constraint refunds_refund_there_check check (octet_length(refund_there) <= 64),
    key_there    text        constraint refunds_key_there_check
        check (key_there is null or octet_length(key_there) <= 255 and origin = 'provider'),
    -- Why it failed, as the provider names it.
    failure      text        constraint refunds_failure_check check (octet_length(failure) <= 600),
    -- When the provider was asked for it last, and how often. Null: what was asked before, if anything, was certainly not done.
    called_at    timestamptz,
    calls        integer     not null default 0,
    -- When it is next attended to, and how often it was since it came to this state; null for never again.
    next_at      timestamptz,
    looks        integer     not null default 0,
    -- Since when it takes longer than it should. A person was told so then.
    stuck_at     timestamptz,
    -- Who attends to it, and until when that is believed.
    lease        uuid,
    leased_until timestamptz,
    actor_id     uuid        constraint refunds_actor_check check ((origin = 'hub') = (actor_id is not null)),
    created_at   timestamptz not null default clock_timestamp(),
    changed_at   timestamptz not null default clock_timestamp(),
    version      bigint      not null default 1,
    constraint refunds_pkey primary key (merchant_id, refund_id),
    constraint refunds_attempt_fkey foreign key (merchant_id, payment_id) references payment_attempts,
    constraint refunds_sale_fkey foreign key (merchant_id, sale_id) references sales
);
create index refunds_payment_idx on refunds (merchant_id, payment_id);
create index refunds_sale_idx on refunds (merchant_id, sale_id);
-- Whoever adds one holds the payment's lock; were it not so, this would find it. Xendit takes one at a time anyway.
create unique index refunds_under_way_key on refunds (merchant_id, payment_id)
    where origin = 'hub' and state in ('created', 'unknown', 'pending');
-- What a provider names once it names once.
create unique index refunds_refund_there_key on refunds (merchant_id, payment_id, refund_there) where refund_there is not null;
create unique index refunds_key_there_key on refunds (merchant_id, payment_id, key_there) where key_there is not null;
create index refunds_next_at_idx on refunds (next_at) where next_at is not null;

-- Refunds that are to be attended to, as payments_due gives payments.
create function refunds_due(of_one_max integer, due_max integer) returns table (merchant uuid, refund uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, refund_id
    from (select merchant_id, refund_id,
                 row_number() over (partition by merchant_id order by next_at, refund_id) as place
          from refunds
          where next_at <= now() and coalesce(leased_until, '-infinity') <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, merchant_id limit least(due_max, 10000)
$$;
revoke all on function refunds_due(integer, integer) from public;
grant execute on function refunds_due(integer, integer) to tillwire_app;

alter table refunds enable row level security;
alter table refunds force row level security;
create policy own on refunds to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For refunds_due, which runs as the owner.
create policy due on refunds for select to current_user using (next_at is not null);
grant select, insert, update on refunds to tillwire_app;

alter table payment_tasks
    drop constraint payment_tasks_kind_check,
    add constraint payment_tasks_kind_check
        check (kind in ('paid_late', 'paid_too_much', 'amount_differs', 'currency_differs', 'merchant_differs', 'conflict',
                        'reversed', 'charged_back', 'code_differs', 'refund_stuck', 'refund_failed', 'refund_elsewhere')),
    -- What was begun to settle it: the sale that the money pays, or the refund that takes it back.
    add column accepted_for uuid constraint payment_tasks_accepted_for_check
        check (accepted_for is null or resolution = 'accepted'),
    add column refund_id    uuid constraint payment_tasks_refund_id_check
        check (refund_id is null or resolution = 'refunded');
grant update (accepted_for, refund_id) on payment_tasks to tillwire_app;
