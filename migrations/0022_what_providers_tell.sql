-- What providers tell: what nobody here knows is another thing than what is none of ours, and lists tell what is paid out.

alter table provider_inbox drop constraint provider_inbox_outcome_check;
alter table provider_inbox add constraint provider_inbox_outcome_check
    check (outcome in ('applied', 'duplicate', 'unmatched', 'ignored', 'unknown', 'forged', 'unreadable', 'parked'));

-- What nothing follows from is as good as a forgery: some of it nobody has signed, so that anybody may send it. Both are forgotten
-- after a week.
drop index provider_inbox_forged_idx;
create index provider_inbox_passing_idx on provider_inbox (received_at) where outcome in ('forged', 'ignored');

create or replace function provider_inbox_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
    passing integer;
    noticed integer;
begin
    delete from provider_inbox where ctid in (
        select ctid from provider_inbox where received_at < now() - interval '18 months' limit least(batch, 10000));
    get diagnostics gone = row_count;
    delete from provider_inbox where ctid in (
        select ctid from provider_inbox
        where outcome in ('forged', 'ignored') and received_at < now() - interval '7 days' limit least(batch, 10000));
    get diagnostics passing = row_count;
    delete from provider_notices where ctid in (
        select ctid from provider_notices where noticed_at < now() - interval '30 days' limit least(batch, 10000));
    get diagnostics noticed = row_count;
    return greatest(gone, passing, noticed);
end $$;

alter table reconciliation_rows add column net_minor bigint;
