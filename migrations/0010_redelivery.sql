-- Redelivery: an endpoint is told once more what it was told, beside its own cursor.

-- A redelivery is a cursor over a part of the journal. Only whoever holds its lease moves it, and it moves nothing of its
-- endpoint's.
create table webhook_redeliveries (
    merchant_id    uuid        not null,
    endpoint_id    uuid        not null,
    redelivery_id  uuid        not null,
    -- What is asked for, as positions: from the first to the last, both included.
    first          text        not null constraint webhook_redeliveries_first_check check (octet_length(first) <= 64),
    last           text        not null constraint webhook_redeliveries_last_check check (octet_length(last) <= 64),
    -- What has been told: everything up to event `event` of entry `seq`, or all of that entry. The tag begins so.
    seq            bigint      not null,
    event          integer     constraint webhook_redeliveries_event_check check (event > 0),
    tag            bytea       not null constraint webhook_redeliveries_tag_check check (length(tag) = 4),
    -- How many events that were.
    delivered      bigint      not null default 0,
    state          text        not null default 'running' constraint webhook_redeliveries_state_check
                               check (state in ('running', 'done', 'failed', 'cancelled')),
    -- Why it failed: it was tried for as long as anything is, the receiver said that it is gone, or the journal did not go on.
    failed_why     text        constraint webhook_redeliveries_failed_why_check
                               check ((state = 'failed') = (failed_why is not null)
                                      and failed_why in ('failing', 'gone', 'cut')),
    -- How often what follows has been tried, and when it is tried next; null for at once.
    attempts       integer     not null default 0,
    next_at        timestamptz,
    lease          uuid,
    leased_until   timestamptz,
    created_at     timestamptz not null default now(),
    ended_at       timestamptz constraint webhook_redeliveries_ended_at_check check ((state = 'running') = (ended_at is null)),
    constraint webhook_redeliveries_pkey primary key (merchant_id, endpoint_id, redelivery_id),
    constraint webhook_redeliveries_endpoint_fkey foreign key (merchant_id, endpoint_id)
        references webhook_endpoints on delete cascade
);
create index webhook_redeliveries_running_idx on webhook_redeliveries (merchant_id, endpoint_id) where state = 'running';
create index webhook_redeliveries_ended_at_idx on webhook_redeliveries (ended_at);

-- An attempt of a redelivery names it.
alter table webhook_attempts add column redelivery_id uuid;

-- A message that a person had passed over is in the log as well.
alter table webhook_attempts drop constraint webhook_attempts_outcome_check;
alter table webhook_attempts add constraint webhook_attempts_outcome_check
    check (outcome in ('delivered', 'refused', 'failed', 'skipped'));

-- Forgets redeliveries that ended more than 31 days ago, a batch at a time.
create function webhook_redeliveries_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from webhook_redeliveries where ctid in (
        select ctid from webhook_redeliveries where ended_at < now() - interval '31 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function webhook_redeliveries_expire(integer) from public;
grant execute on function webhook_redeliveries_expire(integer) to tillwire_app;

alter table webhook_redeliveries enable row level security;
alter table webhook_redeliveries force row level security;
create policy own on webhook_redeliveries to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For whoever looks which of them have something to be told.
create policy relay on webhook_redeliveries for select to tillwire_relay using (true);
-- For webhook_redeliveries_expire, which runs as the owner.
create policy old on webhook_redeliveries to current_user using (ended_at < now() - interval '31 days');

grant select, insert, update on webhook_redeliveries to tillwire_app;
grant select (merchant_id, endpoint_id, redelivery_id, state, next_at, leased_until) on webhook_redeliveries to tillwire_relay;
