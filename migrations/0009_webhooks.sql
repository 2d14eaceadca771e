-- Webhooks: what a merchant's own servers are told of its journal, in order and until they have it.

-- An endpoint is a cursor over the journal through a filter, like a screen. Only whoever holds its lease moves it.
create table webhook_endpoints (
    merchant_id    uuid        not null references merchants,
    endpoint_id    uuid        not null,
    url            text        not null constraint webhook_endpoints_url_check check (octet_length(url) between 1 and 2048),
    description    text        not null constraint webhook_endpoints_description_check check (length(description) <= 200),
    -- The types of events that it is told of; none for all.
    events         text[]      not null constraint webhook_endpoints_events_check check (cardinality(events) <= 100),
    state          text        not null default 'enabled'
                               constraint webhook_endpoints_state_check check (state in ('enabled', 'disabled')),
    -- Why it is disabled: by a person, because it said that it is gone, or because it failed for as long as it is tried.
    disabled_why   text        constraint webhook_endpoints_disabled_why_check
                               check ((state = 'disabled') = (disabled_why is not null)
                                      and disabled_why in ('by_hand', 'gone', 'failing')),
    -- What it has been told: everything up to event `event` of entry `seq`, or all of that entry. The tag begins so.
    seq            bigint      not null,
    event          integer     constraint webhook_endpoints_event_check check (event > 0),
    tag            bytea       not null constraint webhook_endpoints_tag_check check (length(tag) = 4),
    -- How often what follows has been tried, since when it fails, and when it is tried next; null for at once.
    attempts       integer     not null default 0,
    failing_since  timestamptz,
    next_at        timestamptz,
    -- Who is serving it, and until when that is believed. Whoever has been silent for longer has lost it, and its late
    -- word moves nothing.
    lease          uuid,
    leased_until   timestamptz,
    created_at     timestamptz not null default now(),
    constraint webhook_endpoints_pkey primary key (merchant_id, endpoint_id)
);

-- What it and we sign with. The newest signs first; an older one signs along until it expires.
create table webhook_secrets (
    merchant_id uuid        not null,
    endpoint_id uuid        not null,
    secret_id   uuid        not null,
    secret      bytea       not null constraint webhook_secrets_secret_check check (length(secret) between 24 and 64),
    made_at     timestamptz not null default clock_timestamp(),
    expires_at  timestamptz,
    constraint webhook_secrets_pkey primary key (merchant_id, endpoint_id, secret_id),
    constraint webhook_secrets_endpoint_fkey foreign key (merchant_id, endpoint_id)
        references webhook_endpoints on delete cascade
);

-- Every attempt, and what came of it.
create table webhook_attempts (
    merchant_id     uuid        not null,
    attempt_id      uuid        not null,
    endpoint_id     uuid        not null,
    -- The message's id, which a receiver tells repetitions by.
    message_id      text        not null constraint webhook_attempts_message_id_check check (octet_length(message_id) <= 128),
    event_type      text        not null constraint webhook_attempts_event_type_check check (octet_length(event_type) <= 100),
    -- Which attempt at this message, from 1.
    attempt         integer     not null,
    attempted_at    timestamptz not null,
    took_ms         integer     not null,
    -- 'delivered', 'refused' by an answer, or 'failed' without one.
    outcome         text        not null constraint webhook_attempts_outcome_check
                                check (outcome in ('delivered', 'refused', 'failed')),
    -- What was sent and answered, cut.
    request_body    text        not null constraint webhook_attempts_request_body_check check (octet_length(request_body) <= 8192),
    response_status smallint,
    response_body   text        constraint webhook_attempts_response_body_check check (octet_length(response_body) <= 8192),
    -- Why there was no answer.
    error           text        constraint webhook_attempts_error_check check (octet_length(error) <= 1024),
    -- No key leads to the endpoint: there may be a million of them, which would be in the way when it is removed.
    constraint webhook_attempts_pkey primary key (merchant_id, attempt_id)
);
create index webhook_attempts_endpoint_idx on webhook_attempts (merchant_id, endpoint_id, attempt_id);
-- A test message is told from others by its id, and made once.
create unique index webhook_attempts_test_key on webhook_attempts (merchant_id, endpoint_id, message_id)
    where event_type = 'webhook.test';
create index webhook_attempts_attempted_at_idx on webhook_attempts (attempted_at);

-- Forgets attempts that are older than 31 days, a batch at a time.
create function webhook_attempts_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from webhook_attempts where ctid in (
        select ctid from webhook_attempts where attempted_at < now() - interval '31 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function webhook_attempts_expire(integer) from public;
grant execute on function webhook_attempts_expire(integer) to tillwire_app;

alter table webhook_endpoints enable row level security;
alter table webhook_endpoints force row level security;
create policy own on webhook_endpoints to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For whoever looks which endpoints have something to be told.
create policy relay on webhook_endpoints for select to tillwire_relay using (true);

alter table webhook_secrets enable row level security;
alter table webhook_secrets force row level security;
create policy own on webhook_secrets to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

alter table webhook_attempts enable row level security;
alter table webhook_attempts force row level security;
create policy own on webhook_attempts to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For webhook_attempts_expire, which runs as the owner.
create policy old on webhook_attempts to current_user using (attempted_at < now() - interval '31 days');

grant select, insert, update, delete on webhook_endpoints to tillwire_app;
grant select, insert, update, delete on webhook_secrets to tillwire_app;
grant select, insert on webhook_attempts to tillwire_app;
grant select (merchant_id, endpoint_id, state, seq, event, next_at, leased_until) on webhook_endpoints to tillwire_relay;
