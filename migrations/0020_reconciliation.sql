-- Reconciliation: what we have of payments is held against what their provider tells, and against what it has paid out. And how
-- well an account is heard.

-- One run for one account, over a span of time. It goes on step by step, whoever dies, and has ended when `next_at` is null.
create table reconciliations (
    merchant_id  uuid        not null,
    run_id       uuid        not null,
    account_id   uuid        not null,
    from_at      timestamptz not null,
    until_at     timestamptz not null,
    -- What is being done, and how far that has come.
    phase        text        not null default 'asking' constraint reconciliations_phase_check
        check (phase in ('asking', 'noticing', 'looking', 'comparing', 'strangers', 'clearing', 'done', 'failed')),
    cursor       text        constraint reconciliations_cursor_check check (octet_length(cursor) <= 255),
    -- What the provider has told, and how much of it could not be read; how many payments were compared.
    told         bigint      not null default 0,
    unreadable   bigint      not null default 0,
    compared     bigint      not null default 0,
    -- What is new, and what is gone by itself; known at the end.
    found        bigint      not null default 0,
    gone         bigint      not null default 0,
    -- Why it failed, in a sentence.
    error        text        constraint reconciliations_error_check check (octet_length(error) <= 600),
    -- Who asked for it; null for the clock.
    asked_by     uuid,
    begun_at     timestamptz not null default clock_timestamp(),
    ended_at     timestamptz,
    -- When it goes on, who is at it, and until when that is believed. What is committed names the lease.
    next_at      timestamptz default clock_timestamp(),
    lease        uuid,
    leased_until timestamptz,
    constraint reconciliations_pkey primary key (merchant_id, run_id),
    constraint reconciliations_account_fkey foreign key (merchant_id, account_id) references provider_accounts,
    constraint reconciliations_span_check check (from_at < until_at),
    constraint reconciliations_ended_check check ((phase in ('done', 'failed')) = (ended_at is not null)
                                                  and (ended_at is null) = (next_at is not null))
);
-- Of one account one at a time.
create unique index reconciliations_running_key on reconciliations (merchant_id, account_id) where ended_at is null;
create index reconciliations_next_at_idx on reconciliations (next_at) where next_at is not null;
create index reconciliations_begun_at_idx on reconciliations (begun_at);

-- What was told in a run that is under way, once for each thing, however often its page came.
create table reconciliation_rows (
    merchant_id   uuid        not null,
    run_id        uuid        not null,
    -- Who told it, `provider` or `notice`, and how that names it.
    source        text        not null constraint reconciliation_rows_source_check check (source in ('provider', 'notice')),
    row_id        text        not null constraint reconciliation_rows_row_id_check check (octet_length(row_id) between 1 and 100),
    kind          text        not null constraint reconciliation_rows_kind_check
        check (kind in ('payment', 'refund', 'chargeback', 'other')),
    state         text,
    reference     text        constraint reconciliation_rows_reference_check check (octet_length(reference) <= 255),
    payment_there text        constraint reconciliation_rows_payment_there_check check (octet_length(payment_there) <= 100),
    currency      text        not null constraint reconciliation_rows_currency_check check (octet_length(currency) <= 8),
    amount_minor  bigint      not null,
    fee_minor     bigint,
    settled       boolean,
    settles_at    timestamptz,
    told_at       timestamptz not null default clock_timestamp(),
    -- Ours, if it is one.
    payment_id    uuid,
    constraint reconciliation_rows_pkey primary key (merchant_id, run_id, source, row_id),
    constraint reconciliation_rows_run_fkey foreign key (merchant_id, run_id) references reconciliations
);
create index reconciliation_rows_payment_id_idx on reconciliation_rows (merchant_id, run_id, payment_id);

-- Lines of settlement files that a person has brought. The same line is one, in however many files.
create table settlement_lines (
    merchant_id   uuid        not null,
    account_id    uuid        not null,
    -- A hash of all that it says.
    line_id       bytea       not null constraint settlement_lines_line_id_check check (octet_length(line_id) = 32),
    kind          text        not null constraint settlement_lines_kind_check
        check (kind in ('payment', 'refund', 'chargeback', 'other')),
    reference     text        constraint settlement_lines_reference_check check (octet_length(reference) <= 255),
    payment_there text        constraint settlement_lines_payment_there_check check (octet_length(payment_there) <= 100),
    currency      text        not null constraint settlement_lines_currency_check check (octet_length(currency) <= 8),
    amount_minor  bigint      not null,
    fee_minor     bigint,
    net_minor     bigint,
    -- Whether the money is the merchant's by it, and since when.
    settled       boolean     not null,
    settled_at    timestamptz,
    payment_id    uuid,
    imported_at   timestamptz not null default clock_timestamp(),
    -- The run that has compared it first.
    compared_by   uuid,
    constraint settlement_lines_pkey primary key (merchant_id, account_id, line_id),
    constraint settlement_lines_account_fkey foreign key (merchant_id, account_id) references provider_accounts,
    constraint settlement_lines_name_check check (num_nonnulls(reference, payment_there) > 0)
);
create index settlement_lines_payment_id_idx on settlement_lines (merchant_id, payment_id) where payment_id is not null;
create index settlement_lines_new_idx on settlement_lines (merchant_id, account_id) where compared_by is null;
create index settlement_lines_settled_at_idx on settlement_lines (merchant_id, account_id, settled_at);
create index settlement_lines_imported_at_idx on settlement_lines (imported_at);

-- What differs, once however many runs see it: of one class, about one payment, or about money that is none of ours.
create table payment_differences (
    merchant_id   uuid        not null,
    difference_id uuid        not null,
    account_id    uuid        not null,
    class         text        not null constraint payment_differences_class_check
        check (class in ('missing_in_hub', 'missing_at_provider', 'amount_mismatch', 'status_mismatch', 'fee_mismatch',
                         'duplicate_paid', 'unsettled_overdue')),
    -- The payment's id, or as its provider names it.
    subject       text        not null constraint payment_differences_subject_check check (octet_length(subject) between 1 and 255),
    payment_id    uuid,
    ours_minor    bigint,
    theirs_minor  bigint,
    detail        text        not null constraint payment_differences_detail_check check (octet_length(detail) <= 1024),
    -- The run that found it, perhaps anew, and the last that saw it.
    found_by      uuid        not null,
    seen_by       uuid        not null,
    found_at      timestamptz not null default clock_timestamp(),
    seen_at       timestamptz not null default clock_timestamp(),
    -- Closed by a person, who says why, or by the run that saw it no more.
    closed_at     timestamptz,
    closed_by     uuid,
    reason        text        constraint payment_differences_reason_check check (length(reason) between 1 and 200),
    gone_by       uuid,
    constraint payment_differences_pkey primary key (merchant_id, difference_id),
    constraint payment_differences_subject_key unique (merchant_id, account_id, class, subject),
    constraint payment_differences_account_fkey foreign key (merchant_id, account_id) references provider_accounts,
    constraint payment_differences_closed_check check (
        (closed_at is null and num_nonnulls(closed_by, reason, gone_by) = 0)
        or (closed_at is not null and num_nonnulls(closed_by, reason) in (0, 2) and num_nonnulls(closed_by, gone_by) = 1))
);
create index payment_differences_open_idx on payment_differences (merchant_id, difference_id) where closed_at is null;
create index payment_differences_payment_id_idx on payment_differences (merchant_id, payment_id) where closed_at is null;
create index payment_differences_found_by_idx on payment_differences (merchant_id, found_by);
create index payment_differences_gone_by_idx on payment_differences (merchant_id, gone_by) where gone_by is not null;
create index payment_differences_closed_at_idx on payment_differences (closed_at) where closed_at is not null;

-- How well an account is heard: a row once there was anything to tell, written every few seconds at most.
create table provider_health (
    merchant_id  uuid        not null,
    account_id   uuid        not null,
    -- When it answered a call last, when one failed last, and when it told something by itself last.
    answered_at  timestamptz,
    failed_at    timestamptz,
    noticed_at   timestamptz,
    -- Calls, and those of them that failed, since a moment that is an hour ago at most when something is counted.
    since        timestamptz not null default now(),
    calls        bigint      not null default 0,
    failed       bigint      not null default 0,
    -- Payments in a row that nobody was told of and that were found paid all the same; since when, and when that was said.
    missed       integer     not null default 0,
    missed_at    timestamptz,
    alerted_at   timestamptz,
    constraint provider_health_pkey primary key (merchant_id, account_id),
    constraint provider_health_account_fkey foreign key (merchant_id, account_id) references provider_accounts
);

-- Payments that were found paid by a look that no notification had prompted, until it is known whether one came after all.
create table payments_polled (
    merchant_id uuid        not null,
    payment_id  uuid        not null,
    account_id  uuid        not null,
    -- When its customer paid, by the provider's clock.
    paid_at     timestamptz not null,
    found_at    timestamptz not null default clock_timestamp(),
    constraint payments_polled_pkey primary key (merchant_id, payment_id),
    constraint payments_polled_attempt_fkey foreign key (merchant_id, payment_id) references payment_attempts
);
create index payments_polled_found_at_idx on payments_polled (found_at);

-- What is compared with what was told: the payments of an account by when they were begun and paid.
create index payment_attempts_created_at_idx on payment_attempts (merchant_id, account_id, created_at);
create index payment_attempts_paid_at_idx on payment_attempts (merchant_id, account_id, paid_at) where paid_at is not null;
create index provider_inbox_unmatched_idx on provider_inbox (merchant_id, account_id, inbox_id) where outcome = 'unmatched';

-- Runs that are to go on, those first that have waited longest.
create function reconciliations_due(due_max integer) returns table (merchant uuid, run uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, run_id from reconciliations
    where next_at <= now() and coalesce(leased_until, '-infinity') <= now()
    order by next_at, run_id limit least(due_max, 1000)
$$;
revoke all on function reconciliations_due(integer) from public;
grant execute on function reconciliations_due(integer) to tillwire_app;

-- Accounts that are in use, behind one of them, in the order of merchants.
create function provider_accounts_enabled(behind_merchant uuid, behind_account uuid, batch integer)
    returns table (merchant uuid, account uuid, provider text)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, account_id, provider_accounts.provider from provider_accounts
    where enabled and (merchant_id, account_id) > (behind_merchant, behind_account)
    order by merchant_id, account_id limit least(batch, 1000)
$$;
revoke all on function provider_accounts_enabled(uuid, uuid, integer) from public;
grant execute on function provider_accounts_enabled(uuid, uuid, integer) to tillwire_app;

-- Payments that were found paid so long ago that a notification would have come.
create function payments_polled_due(waited interval, due_max integer) returns table (merchant uuid, payment uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id, payment_id from payments_polled where found_at <= now() - waited
    order by found_at limit least(due_max, 1000)
$$;
revoke all on function payments_polled_due(interval, integer) from public;
grant execute on function payments_polled_due(interval, integer) to tillwire_app;

-- Forgets, a batch at a time, what is eighteen months old: runs that have ended, lines of files, and differences that are closed.
create function reconciliations_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    runs integer;
    lines integer;
    differences integer;
begin
    delete from reconciliations where ctid in (
        select ctid from reconciliations
        where begun_at < now() - interval '18 months' and ended_at is not null limit least(batch, 10000));
    get diagnostics runs = row_count;
    delete from settlement_lines where ctid in (
        select ctid from settlement_lines where imported_at < now() - interval '18 months' limit least(batch, 10000));
    get diagnostics lines = row_count;
    delete from payment_differences where ctid in (
        select ctid from payment_differences where closed_at < now() - interval '18 months' limit least(batch, 10000));
    get diagnostics differences = row_count;
    return greatest(runs, lines, differences);
end $$;
revoke all on function reconciliations_expire(integer) from public;
grant execute on function reconciliations_expire(integer) to tillwire_app;

do $$
declare
    walled text;
begin
    foreach walled in array array['reconciliations', 'reconciliation_rows', 'settlement_lines', 'payment_differences',
                                  'provider_health', 'payments_polled'] loop
        execute format('alter table %I enable row level security', walled);
        execute format('alter table %I force row level security', walled);
        execute format('create policy own on %I to tillwire_app using (merchant_id = current_merchant())
            with check (merchant_id = current_merchant())', walled);
        execute format('grant select, insert on %I to tillwire_app', walled);
    end loop;
end $$;
grant update on reconciliations, payment_differences, provider_health to tillwire_app;
grant update (compared_by) on settlement_lines to tillwire_app;
grant delete on reconciliation_rows, payments_polled to tillwire_app;
-- For the functions above, which run as the owner.
create policy due on reconciliations for select to current_user using (next_at is not null);
create policy due on provider_accounts for select to current_user using (enabled);
create policy due on payments_polled for select to current_user using (true);
create policy old on reconciliations to current_user using (begun_at < now() - interval '18 months');
create policy old on settlement_lines to current_user using (imported_at < now() - interval '18 months');
create policy old on payment_differences to current_user using (closed_at < now() - interval '18 months');
