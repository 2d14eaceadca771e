-- Which payments a person has seen, and on which screen.

-- A person saw payments up to a position, on a screen that was told them on a channel. A row for each time that one goes
-- further; the first row at a payment or after it says when that payment was seen there.
create table payments_seen (
    merchant_id uuid        not null references merchants,
    -- The public id of the connection, which a screen keeps when it comes back.
    screen_id   text        not null constraint payments_seen_screen_id_check check (length(screen_id) = 22),
    channel     text        not null constraint payments_seen_channel_check check (length(channel) <= 128),
    -- The position: event `event` of entry `seq`, whose tag begins so. 2147483647 stands for the whole entry.
    seq         bigint      not null,
    event       integer     not null,
    tag         bytea       not null constraint payments_seen_tag_check check (length(tag) = 4),
    -- Entries up to this one were not told to the screen: it does not speak of them.
    since       bigint      not null,
    -- Who its token was for. Neither need be in our tables: tokens are also minted elsewhere.
    staff_id    uuid        not null,
    register_id uuid,
    seen_at     timestamptz not null default now(),
    constraint payments_seen_pkey primary key (merchant_id, screen_id, channel, seq, event)
);
create index payments_seen_seen_at_idx on payments_seen (seen_at);

-- Forgets what was seen more than 31 days ago, a batch at a time.
create function payments_seen_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from payments_seen where ctid in (
        select ctid from payments_seen where seen_at < now() - interval '31 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function payments_seen_expire(integer) from public;
grant execute on function payments_seen_expire(integer) to tillwire_app;

alter table payments_seen enable row level security;
alter table payments_seen force row level security;
create policy own on payments_seen to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For payments_seen_expire, which runs as the owner.
create policy old on payments_seen to current_user using (seen_at < now() - interval '31 days');

grant select, insert on payments_seen to tillwire_app;
