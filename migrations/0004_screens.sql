-- What the gateways of a hub have in common: keys for what they hand out sealed, and what screens have joined since they
-- connected.

-- Keys to seal what a node hands out and any node must know again. The newest seals, all of them open. A sealed text
-- opens no door: the bearer's token is checked anew whenever one comes back. To change the key, insert another; the
-- old one may go after eight days.
create table gateway_keys (
    key_id  smallint    generated always as identity constraint gateway_keys_pkey primary key,
    key     bytea       not null constraint gateway_keys_key_check check (length(key) = 32),
    made_at timestamptz not null default now()
);
-- `gen_random_uuid` draws from the strong source: two of them hold 244 random bits.
insert into gateway_keys (key) values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- What a screen has joined, if that changed since it connected. What it joined when it connected is sealed into the id
-- that it comes back with, so most screens have no row here.
create table screens (
    merchant_id uuid        not null references merchants,
    -- The public id of the connection, which a screen keeps when it comes back.
    screen_id   text        not null constraint screens_screen_id_check check (length(screen_id) = 22),
    -- Which of a screen's connections wrote this: the newer one has the greater number, and the older one's late
    -- word is refused.
    epoch       bigint      not null,
    -- [{"channel": "sales", "since": 1041}]: events up to entry `since` are not heard on that channel. With
    -- "wants_state" its snapshot is still to come.
    joined      text        not null constraint screens_joined_check check (length(joined) <= 16384),
    changed_at  timestamptz not null default now(),
    constraint screens_pkey primary key (merchant_id, screen_id)
);
create index screens_changed_at_idx on screens (changed_at);

-- Forgets screens that cannot come back any more, a batch at a time.
create function screens_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from screens where ctid in (
        select ctid from screens where changed_at < now() - interval '8 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function screens_expire(integer) from public;
grant execute on function screens_expire(integer) to tillwire_app;

alter table screens enable row level security;
alter table screens force row level security;
create policy own on screens to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For screens_expire, which runs as the owner.
create policy old on screens to current_user using (changed_at < now() - interval '8 days');

grant select on gateway_keys to tillwire_app;
grant select, insert, update on screens to tillwire_app;
