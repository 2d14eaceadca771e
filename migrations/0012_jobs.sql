-- Jobs: what is to be done at its time, once in a fleet, whichever node does it.

-- A job is nobody's in particular: it has no merchant, and everyone who serves sees all of them.
create table jobs (
    job           text        constraint jobs_pkey primary key
                              constraint jobs_job_check check (job ~ '^[a-z0-9_]{1,64}$'),
    -- In words: a node that knows it by other words plans it anew.
    schedule      text        not null constraint jobs_schedule_check check (length(schedule) between 1 and 100),
    -- The regular time that it is to be done for, by this database's clock; and when it is tried: then, or later after an
    -- attempt in vain.
    due_at        timestamptz not null,
    next_at       timestamptz not null,
    -- How often that was begun, also by whoever did not live to tell.
    attempts      integer     not null default 0,
    -- Who is doing it, and until when that is believed. Whoever has been silent for longer may lose it to another, and
    -- then commits nothing more.
    lease         uuid,
    leased_until  timestamptz,
    held_by       text        constraint jobs_held_by_check check (octet_length(held_by) <= 200),
    -- Since when it has not been done, though it was tried.
    failing_since timestamptz,
    -- What came of the last attempt whose end is known.
    ended_at      timestamptz,
    took_ms       bigint,
    outcome       text        constraint jobs_outcome_check check (outcome in ('done', 'failed')),
    error         text        constraint jobs_error_check check (octet_length(error) <= 1024),
    constraint jobs_lease_check check ((lease is null) = (leased_until is null) and (lease is null) = (held_by is null))
);

grant select, insert, update on jobs to tillwire_app;

-- Who follows journals by cursors, and the first entry that each has still to be told: retention waits for them. Whoever
-- adds another kind of cursor replaces this view by one that has it as well, and lets the owner read it as below.
create view journal_readers as
    select merchant_id, 'webhook ' || endpoint_id as reader,
           -- One that is in the middle of an entry needs it still.
           case when event is null then seq + 1 else seq end as next_seq
    from webhook_endpoints where state = 'enabled'
    union all
    -- What is told once more. It waits while its endpoint is disabled, and keeps nothing then, as the endpoint does not.
    select redelivery.merchant_id, 'redelivery ' || redelivery_id || ' to webhook ' || endpoint_id,
           case when redelivery.event is null then redelivery.seq + 1 else redelivery.seq end
    from webhook_redeliveries redelivery join webhook_endpoints endpoint using (merchant_id, endpoint_id)
    where redelivery.state = 'running' and endpoint.state = 'enabled'
    union all
    -- A handler follows a journal itself until a relay does. One that never did has left its cursor to a broker.
    select cursor.merchant_id, 'handler ' || handler, greatest(cursor.seq, coalesce(relayed.seq, 0)) + 1
    from handler_cursors cursor left join relay_cursors relayed using (merchant_id)
    where cursor.leased_until is not null
    union all
    -- What it could not handle, and tries again.
    select merchant_id, 'handler ' || handler || ' once more', min(seq)
    from parked_entries where state = 'waiting' group by merchant_id, handler
    union all
    -- Where there is a relay, it has still to come to those whom it has no cursor for.
    select head.merchant_id, 'relay', coalesce(cursor.seq, 0) + 1
    from journal_heads head left join relay_cursors cursor using (merchant_id)
    where exists (select from relay_cursors);

-- Walls hold for the owner as well, who looks over them only while it says that it prunes.
create function is_pruning() returns boolean
    language sql stable parallel safe
    return coalesce(current_setting('tillwire.pruning', true) = 'on', false);
create policy pruning on journal_heads for select to current_user using (is_pruning());
create policy pruning on journal_entries for select to current_user using (is_pruning());
create policy pruning on relay_cursors for select to current_user using (is_pruning());
create policy pruning on webhook_endpoints for select to current_user using (is_pruning());
create policy pruning on webhook_redeliveries for select to current_user using (is_pruning());
create policy pruning on handler_cursors for select to current_user using (is_pruning());
create policy pruning on parked_entries for select to current_user using (is_pruning());
