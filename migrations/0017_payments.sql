-- Payments that a provider carries: the attempts at them, what providers tell of these, and what only a person can settle.

-- One attempt: a payment that was asked for at one provider, once. It is written down before the provider is asked, under the
-- id by which the provider knows it. When the customer has paid, `payments` has a row of the same id.
create table payment_attempts (
    merchant_id   uuid        not null,
    payment_id    uuid        not null,
    sale_id       uuid        not null,
    outlet_id     uuid        not null,
    register_id   uuid        not null,
    account_id    uuid        not null,
    provider      text        not null constraint payment_attempts_provider_check check (provider in ('midtrans', 'xendit')),
    mode          text        not null constraint payment_attempts_mode_check check (mode in ('test', 'live')),
    method        text        not null constraint payment_attempts_method_check
        check (method in ('qris', 'bank_transfer', 'card')),
    bank          text        constraint payment_attempts_bank_check check ((method = 'bank_transfer') = (bank is not null)),
    amount_minor  bigint      not null constraint payment_attempts_amount_check check (amount_minor > 0),
    currency      text        not null,
    state         text        not null default 'created' constraint payment_attempts_state_check
        check (state in ('created', 'unknown', 'pending', 'review', 'authorized', 'paid', 'settled', 'partially_refunded',
                         'refunded', 'failed', 'canceled', 'expired', 'paid_late', 'reversed', 'charged_back')),
    -- As the provider names what was asked for, the payment itself, and the page on which it is made.
    request_there text        constraint payment_attempts_request_there_check check (octet_length(request_there) <= 64),
    payment_there text        constraint payment_attempts_payment_there_check check (octet_length(payment_there) <= 64),
    session_there text        constraint payment_attempts_session_there_check check (octet_length(session_there) <= 64),
    -- What the customer is shown to pay with.
    shown         jsonb       constraint payment_attempts_shown_check check (octet_length(shown::text) <= 4096),
    -- How long the provider gives the customer, if that was chosen; and when the time is over by our clock.
    expires_in_s  integer     constraint payment_attempts_expires_in_check check (expires_in_s > 0),
    expires_at    timestamptz not null,
    -- That it is to be called off, and why: the provider is told first, and has the last word.
    closing       text        constraint payment_attempts_closing_check check (closing in ('canceled', 'expired')),
    -- When the provider was first asked for it. Null: it has certainly never heard of it.
    called_at     timestamptz,
    paid_at       timestamptz,
    -- Why it failed, as the provider names it; whose app or card paid; what the provider keeps.
    failure       text        constraint payment_attempts_failure_check check (octet_length(failure) <= 600),
    issuer        text        constraint payment_attempts_issuer_check check (octet_length(issuer) <= 255),
    fee_minor     bigint,
    -- When it is next attended to, and how often it was since it came to this state; null for never again.
    next_at       timestamptz,
    looks         integer     not null default 0,
    -- That somebody has said since that there is something new: whoever attends to it then may have asked too early.
    prompted      boolean     not null default false,
    -- Who attends to it, and until when that is believed.
    lease         uuid,
    leased_until  timestamptz,
    actor_id      uuid        not null,
    created_at    timestamptz not null default clock_timestamp(),
    changed_at    timestamptz not null default clock_timestamp(),
    version       bigint      not null default 1,
    constraint payment_attempts_pkey primary key (merchant_id, payment_id),
    constraint payment_attempts_sale_fkey foreign key (merchant_id, sale_id) references sales,
    constraint payment_attempts_account_fkey foreign key (merchant_id, account_id) references provider_accounts
);
create index payment_attempts_sale_idx on payment_attempts (merchant_id, sale_id);
-- What a provider names once it names once.
create unique index payment_attempts_payment_there_key on payment_attempts (merchant_id, account_id, payment_there)
    where payment_there is not null;
create unique index payment_attempts_request_there_key on payment_attempts (merchant_id, account_id, request_there)
    where request_there is not null;
create index payment_attempts_session_there_idx on payment_attempts (merchant_id, account_id, session_there)
    where session_there is not null;
create index payment_attempts_next_at_idx on payment_attempts (next_at) where next_at is not null;

-- What a provider has told by itself, as it came, before anybody has read it. What proves to be a stranger's is kept as well,
-- to be looked at.
create table provider_inbox (
    merchant_id uuid        not null,
    inbox_id    uuid        not null,
    account_id  uuid        not null,
    received_at timestamptz not null default clock_timestamp(),
    -- Headers of the request, but for those that are secrets.
    headers     jsonb       not null constraint provider_inbox_headers_check check (octet_length(headers::text) <= 16384),
    body        bytea       not null constraint provider_inbox_body_check check (octet_length(body) <= 262144),
    -- What came of it; null while nobody has come to that.
    outcome     text        constraint provider_inbox_outcome_check
        check (outcome in ('applied', 'duplicate', 'unmatched', 'ignored', 'forged', 'unreadable', 'parked')),
    payment_id  uuid,
    -- How often somebody came back to it, and when somebody does next, if nobody has dealt with it by then.
    tries       integer     not null default 0,
    due_at      timestamptz not null default clock_timestamp() + interval '5 seconds',
    constraint provider_inbox_pkey primary key (merchant_id, inbox_id),
    constraint provider_inbox_account_fkey foreign key (merchant_id, account_id) references provider_accounts
);
create index provider_inbox_due_at_idx on provider_inbox (due_at) where outcome is null;
create index provider_inbox_forged_idx on provider_inbox (received_at) where outcome = 'forged';
create index provider_inbox_received_at_idx on provider_inbox (received_at);

-- What was told is told again and again: by these its repetitions are known. Written in the transaction of the effect.
create table provider_notices (
    merchant_id uuid        not null,
    account_id  uuid        not null,
    dedupe      text        not null constraint provider_notices_dedupe_check check (octet_length(dedupe) between 1 and 200),
    inbox_id    uuid        not null,
    noticed_at  timestamptz not null default now(),
    constraint provider_notices_pkey primary key (merchant_id, account_id, dedupe)
);
create index provider_notices_noticed_at_idx on provider_notices (noticed_at);

-- What only a person can settle about a payment: each matter once, while it is open.
create table payment_tasks (
    merchant_id uuid        not null,
    task_id     uuid        not null,
    -- What is the matter.
    kind        text        not null constraint payment_tasks_kind_check
        check (kind in ('paid_late', 'paid_too_much', 'amount_differs', 'currency_differs', 'merchant_differs', 'conflict',
                        'reversed', 'charged_back', 'code_differs')),
    payment_id  uuid        not null,
    sale_id     uuid        not null,
    outlet_id   uuid        not null,
    detail      text        not null constraint payment_tasks_detail_check check (octet_length(detail) <= 1024),
    opened_at   timestamptz not null default clock_timestamp(),
    -- Who settled it, how, and in their own words why.
    closed_at   timestamptz,
    closed_by   uuid,
    resolution  text        constraint payment_tasks_resolution_check check (resolution in ('accepted', 'refunded', 'noted')),
    note        text        constraint payment_tasks_note_check check (length(note) between 1 and 200),
    constraint payment_tasks_pkey primary key (merchant_id, task_id),
    constraint payment_tasks_attempt_fkey foreign key (merchant_id, payment_id) references payment_attempts,
    constraint payment_tasks_closed_check check (num_nonnulls(closed_at, closed_by, resolution, note) in (0, 4))
);
create unique index payment_tasks_open_key on payment_tasks (merchant_id, payment_id, kind) where closed_at is null;

-- Attempts that are to be attended to: so many at most, and so many of one merchant, the most urgent of each first. Every
-- merchant's first come before anybody's second, so that nobody waits for another's many.
create function payments_due(of_one_max integer, due_max integer) returns table (merchant uuid, payment uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, payment_id
    from (select merchant_id, payment_id,
                 row_number() over (partition by merchant_id order by next_at, payment_id) as place
          from payment_attempts
          where next_at <= now() and coalesce(leased_until, '-infinity') <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, merchant_id limit least(due_max, 10000)
$$;
revoke all on function payments_due(integer, integer) from public;
grant execute on function payments_due(integer, integer) to tillwire_app;

-- Notifications that were kept and that nobody has come to since: whoever kept them died, or could not go on.
create function provider_inbox_due(of_one_max integer, due_max integer) returns table (merchant uuid, inbox uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, inbox_id
    from (select merchant_id, inbox_id,
                 row_number() over (partition by merchant_id order by due_at, inbox_id) as place
          from provider_inbox
          where outcome is null and due_at <= now()) due
    where place <= least(of_one_max, 1000)
    order by place, merchant_id limit least(due_max, 10000)
$$;
revoke all on function provider_inbox_due(integer, integer) from public;
grant execute on function provider_inbox_due(integer, integer) to tillwire_app;

-- Forgets, a batch at a time, what providers told long ago: forgeries after a week, the rest after eighteen months, for evidence
-- is wanted late; and by what repetitions are known after thirty days, longer than any provider repeats itself.
create function provider_inbox_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
    forged integer;
    noticed integer;
begin
    delete from provider_inbox where ctid in (
        select ctid from provider_inbox where received_at < now() - interval '18 months' limit least(batch, 10000));
    get diagnostics gone = row_count;
    delete from provider_inbox where ctid in (
        select ctid from provider_inbox
        where outcome = 'forged' and received_at < now() - interval '7 days' limit least(batch, 10000));
    get diagnostics forged = row_count;
    delete from provider_notices where ctid in (
        select ctid from provider_notices where noticed_at < now() - interval '30 days' limit least(batch, 10000));
    get diagnostics noticed = row_count;
    return greatest(gone, forged, noticed);
end $$;
revoke all on function provider_inbox_expire(integer) from public;
grant execute on function provider_inbox_expire(integer) to tillwire_app;

do $$
declare
    walled text;
begin
    foreach walled in array array['payment_attempts', 'provider_inbox', 'provider_notices', 'payment_tasks'] loop
        execute format('alter table %I enable row level security', walled);
        execute format('alter table %I force row level security', walled);
        execute format('create policy own on %I to tillwire_app using (merchant_id = current_merchant())
            with check (merchant_id = current_merchant())', walled);
        execute format('grant select, insert on %I to tillwire_app', walled);
    end loop;
end $$;
grant update on payment_attempts to tillwire_app;
-- What came of it, and not what came.
grant update (outcome, payment_id, tries, due_at) on provider_inbox to tillwire_app;
grant update (closed_at, closed_by, resolution, note) on payment_tasks to tillwire_app;
-- For the functions above, which run as the owner.
create policy due on payment_attempts for select to current_user using (next_at is not null);
create policy due on provider_inbox for select to current_user using (true);
create policy old on provider_inbox for delete to current_user using (received_at < now() - interval '7 days');
create policy old on provider_notices to current_user using (noticed_at < now() - interval '30 days');
