-- The journal: a merchant's numbered entries, in commit order, without holes, each chained to the one before.
--
-- Start reading here. Four roles meet in this database, and none of them is a superuser:
--   tillwire_migrate  owns everything and runs these files
--   tillwire_app      serves requests; row-level security walls every merchant off from the others
--   tillwire_feed     reads heads and entries of all merchants for the gateways, and nothing else
--   tillwire_relay    as tillwire_feed, and keeps its own cursors
-- Row-level security is the belt; the braces are that every query names its merchant.

-- Roles belong to the whole cluster: whoever sets it up makes them (`deploy/postgres/roles.sql` for a real one, the hub
-- itself for its private one), so that this owner need not be able to.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['tillwire_app', 'tillwire_feed', 'tillwire_relay'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            raise exception 'the role % is missing', wanted
                using hint = 'a superuser makes the roles, as deploy/postgres/roles.sql does';
        end if;
    end loop;
end $$;

revoke create on schema public from public;
grant usage on schema public to tillwire_app, tillwire_feed, tillwire_relay;

-- The merchant of the running transaction, or null. After a transaction that set it, an unset value reads '': a bare
-- cast would then fail on a reused connection.
create function current_merchant() returns uuid
    language sql stable parallel safe
    return nullif(current_setting('tillwire.merchant', true), '')::uuid;

create table merchants (
    merchant_id uuid primary key,
    name        text        not null constraint merchants_name_check check (length(name) between 1 and 200),
    -- ISO 4217. Amounts are integers in its minor unit as cash has it: the rupiah's is the rupiah.
    currency    text        not null constraint merchants_currency_check check (currency ~ '^[A-Z]{3}$'),
    created_at  timestamptz not null default now()
);

-- The head of each journal: its last entry. Taking the next number locks this row, in the last statement before
-- commit and not longer.
create table journal_heads (
    merchant_id uuid primary key references merchants,
    seq         bigint      not null default 0,
    prev        bytea       not null default '\x0000000000000000',
    tag         bytea       not null default '\x0000000000000000',
    recorded_at timestamptz not null default '-infinity',
    constraint journal_heads_tag_check check (length(prev) = 8 and length(tag) = 8)
);

-- The entries. `events` is text and not jsonb, for its very bytes are hashed:
--   tag = first 8 bytes of sha256(prev || merchant_id (16 bytes) || seq (8 bytes, big-endian) || events)
-- `recorded_at` never runs backwards within a journal, so partitions by month are also ranges of numbers.
create table journal_entries (
    merchant_id uuid        not null,
    seq         bigint      not null,
    recorded_at timestamptz not null,
    prev        bytea       not null,
    tag         bytea       not null,
    events      text        not null,
    constraint journal_entries_pkey primary key (merchant_id, seq, recorded_at),
    constraint journal_entries_events_check check (octet_length(events) <= 262144)
) partition by range (recorded_at);

-- Makes the partitions of this month and of the coming ones. It runs as its owner, for the application may not create
-- tables; its search path is pinned for that reason.
create function journal_partitions_ahead(months integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    first_day date;
    made      integer := 0;
    partition text;
begin
    if months not between 0 and 24 then
        raise exception 'months must be between 0 and 24';
    end if;
    -- Two nodes that start together would both find the partition missing.
    perform pg_advisory_xact_lock(hashtextextended('tillwire.journal_partitions', 0));
    for step in 0..months loop
        first_day := (date_trunc('month', now() at time zone 'utc') + make_interval(months => step))::date;
        partition := 'journal_entries_' || to_char(first_day, 'YYYY_MM');
        if to_regclass('public.' || partition) is null then
            execute format(
                'create table public.%I partition of public.journal_entries for values from (%L) to (%L)', partition,
                first_day::timestamp at time zone 'utc', (first_day + interval '1 month') at time zone 'utc');
            -- Nobody has grants on a partition, and no policy lets anyone through: the way in is the parent.
            execute format('alter table public.%I enable row level security', partition);
            execute format('alter table public.%I force row level security', partition);
            made := made + 1;
        end if;
    end loop;
    return made;
end $$;
revoke all on function journal_partitions_ahead(integer) from public;
grant execute on function journal_partitions_ahead(integer) to tillwire_app, tillwire_relay;

select journal_partitions_ahead(3);

-- Answers to requests that carry an idempotency key, stored with what they did, in its transaction.
create table idempotency_keys (
    merchant_id uuid        not null references merchants,
    route       text        not null,
    key         text        not null constraint idempotency_keys_key_check check (length(key) between 1 and 128),
    -- sha256 of path and body: the same key with another request is a mistake of the caller.
    fingerprint bytea       not null,
    status      smallint    not null constraint idempotency_keys_status_check check (status between 200 and 299),
    reply       text        not null,
    -- The entry that was committed with it; null if nothing happened that anyone would hear of.
    seq         bigint,
    tag         bytea,
    created_at  timestamptz not null default now(),
    constraint idempotency_keys_pkey primary key (merchant_id, route, key)
);
create index idempotency_keys_created_at_idx on idempotency_keys (created_at);

-- Forgets keys that are older than eight days, a batch at a time: a device that was offline for a week still finds its
-- answer.
create function idempotency_keys_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from idempotency_keys where ctid in (
        select ctid from idempotency_keys where created_at < now() - interval '8 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function idempotency_keys_expire(integer) from public;
grant execute on function idempotency_keys_expire(integer) to tillwire_app;

-- Walls. Forced, so that they hold for the owner as well.
alter table merchants enable row level security;
alter table merchants force row level security;
create policy own on merchants to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

alter table journal_heads enable row level security;
alter table journal_heads force row level security;
create policy own on journal_heads to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
create policy everyone on journal_heads for select to tillwire_feed, tillwire_relay using (true);

alter table journal_entries enable row level security;
alter table journal_entries force row level security;
create policy own on journal_entries to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
create policy everyone on journal_entries for select to tillwire_feed, tillwire_relay using (true);

alter table idempotency_keys enable row level security;
alter table idempotency_keys force row level security;
create policy own on idempotency_keys to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For idempotency_keys_expire, which runs as the owner.
create policy old on idempotency_keys to current_user using (created_at < now() - interval '8 days');

grant select, insert on merchants to tillwire_app;
grant select, insert, update on journal_heads to tillwire_app;
grant select, insert on journal_entries to tillwire_app;
grant select, insert on idempotency_keys to tillwire_app;
grant select on journal_heads, journal_entries to tillwire_feed, tillwire_relay;
