-- Handlers: one effect outside for each event. What became of entries at them.

-- Which events a handler has handled: a set, for they come in no order, and more than once. Only what had an effect is kept.
create table handled_events (
    merchant_id uuid        not null,
    handler     text        not null constraint handled_events_handler_check check (handler ~ '^[a-z]{1,40}$'),
    seq         bigint      not null,
    event       integer     not null constraint handled_events_event_check check (event > 0),
    -- How the entry's tag begins: in another history the same number is another event.
    tag         bytea       not null constraint handled_events_tag_check check (length(tag) = 4),
    handled_at  timestamptz not null default now(),
    constraint handled_events_pkey primary key (merchant_id, handler, seq, event, tag)
);
create index handled_events_handled_at_idx on handled_events (handled_at);

-- Where a handler is in a journal, while it follows it itself, without a broker. None before the first entry.
create table handler_cursors (
    merchant_id  uuid        not null references merchants,
    handler      text        not null constraint handler_cursors_handler_check check (handler ~ '^[a-z]{1,40}$'),
    seq          bigint      not null,
    tag          bytea       not null constraint handler_cursors_tag_check check (length(tag) = 4),
    -- Who is following it, and until when that is believed; and how many in a row never gave it back.
    lease        uuid,
    leased_until timestamptz,
    lost         integer     not null default 0,
    constraint handler_cursors_pkey primary key (merchant_id, handler)
);

-- What was sold before there was a handler is history. Row-level security holds for us, too.
create policy moving on journal_heads for select to current_user using (true);
insert into handler_cursors (merchant_id, handler, seq, tag)
select merchant_id, 'push', seq, substr(tag, 1, 4) from journal_heads where seq > 0;
drop policy moving on journal_heads;

-- Entries that a handler could not handle. They wait for the next attempt, or, when there is none, for a person: those are the
-- dead letters. One that was dropped is kept, so that it does not come again.
create table parked_entries (
    merchant_id  uuid        not null,
    letter_id    uuid        not null,
    handler      text        not null constraint parked_entries_handler_check check (handler ~ '^[a-z]{1,40}$'),
    seq          bigint      not null,
    tag          bytea       not null constraint parked_entries_tag_check check (length(tag) = 4),
    state        text        not null constraint parked_entries_state_check check (state in ('waiting', 'dead', 'dropped')),
    -- How often it was tried, the attempt that is under way included.
    attempts     integer     not null constraint parked_entries_attempts_check check (attempts >= 0),
    -- Why the last attempt failed.
    reason       text        not null constraint parked_entries_reason_check check (octet_length(reason) <= 2048),
    parked_at    timestamptz not null default now(),
    -- When it is tried next, if it waits.
    next_at      timestamptz constraint parked_entries_next_at_check check ((state = 'waiting') = (next_at is not null)),
    -- Who is trying it, and until when that is believed.
    lease        uuid,
    leased_until timestamptz,
    constraint parked_entries_pkey primary key (merchant_id, letter_id),
    constraint parked_entries_entry_key unique (merchant_id, handler, seq, tag)
);
create index parked_entries_next_at_idx on parked_entries (next_at) where state = 'waiting';
create index parked_entries_dead_idx on parked_entries (merchant_id, letter_id) where state = 'dead';

-- How far handlers have come with what the broker gives them, by any node: `tillwire queues` tells how old a queue is by it.
create table handler_progress (
    handler     text        constraint handler_progress_pkey primary key
                            constraint handler_progress_handler_check check (handler ~ '^[a-z]{1,40}$'),
    -- When the newest entry that was taken from the queue was recorded.
    recorded_at timestamptz not null
);

-- What people did that is no sale, and should be found again. Nobody changes a line, and nobody of ours removes one.
create table audit_lines (
    merchant_id uuid        not null,
    line_id     uuid        not null,
    happened_at timestamptz not null default clock_timestamp(),
    -- Who: null for the operator at the machine.
    staff_id    uuid,
    -- What was done, and to what.
    action      text        not null constraint audit_lines_action_check check (octet_length(action) between 1 and 100),
    subject     text        not null constraint audit_lines_subject_check check (octet_length(subject) between 1 and 500),
    detail      text        not null constraint audit_lines_detail_check check (octet_length(detail) <= 4096),
    constraint audit_lines_pkey primary key (merchant_id, line_id)
);

-- Forgets what was handled more than 31 days ago, a batch at a time: longer than anything comes again, but for entries that
-- wait for a person.
create function handled_events_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from handled_events where ctid in (
        select ctid from handled_events handled
        where handled_at < now() - interval '31 days'
          and not exists (select from parked_entries parked
                          where (parked.merchant_id, parked.handler, parked.seq, parked.tag)
                              = (handled.merchant_id, handled.handler, handled.seq, handled.tag))
        limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function handled_events_expire(integer) from public;
grant execute on function handled_events_expire(integer) to tillwire_app;

alter table handled_events enable row level security;
alter table handled_events force row level security;
create policy own on handled_events to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For handled_events_expire, which runs as the owner.
create policy old on handled_events to current_user using (handled_at < now() - interval '31 days');

alter table handler_cursors enable row level security;
alter table handler_cursors force row level security;
create policy own on handler_cursors to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For whoever looks where there is something to do.
create policy relay on handler_cursors for select to tillwire_relay using (true);

alter table parked_entries enable row level security;
alter table parked_entries force row level security;
create policy own on parked_entries to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
create policy relay on parked_entries for select to tillwire_relay using (true);
-- For handled_events_expire.
create policy old on parked_entries for select to current_user using (true);

alter table audit_lines enable row level security;
alter table audit_lines force row level security;
create policy own on audit_lines to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

grant select, insert on handled_events to tillwire_app;
grant select, insert, update on handler_cursors to tillwire_app;
grant select, insert, update, delete on parked_entries to tillwire_app;
grant select, insert on audit_lines to tillwire_app;
grant select (merchant_id, handler, seq, tag, leased_until) on handler_cursors to tillwire_relay;
grant select (merchant_id, letter_id, handler, seq, tag, state, attempts, reason, parked_at, next_at, lease, leased_until)
    on parked_entries to tillwire_relay;
grant select, insert, update on handler_progress to tillwire_relay;
