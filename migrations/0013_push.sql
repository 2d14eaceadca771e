-- Push: phones and browsers on which people want to be told what no screen has shown them.

-- Where one person wants to be told. What that person may hear is what the token said with which the registration was
-- renewed last, as for a screen; a revocation of such tokens silences it.
create table push_devices (
    merchant_id  uuid        not null references merchants,
    device_id    uuid        not null,
    -- Whose it is. Neither person, register nor outlets need be in our tables: tokens are also minted elsewhere.
    staff_id     uuid        not null,
    role         text        not null constraint push_devices_role_check
                 check (role in ('owner', 'manager', 'cashier', 'clerk', 'accountant', 'auditor', 'display')),
    outlets      uuid[]      not null constraint push_devices_outlets_check check (cardinality(outlets) <= 1000),
    register_id  uuid,
    issued_at    timestamptz not null,
    -- By which service, and under what name it knows the device: a URL, or a token. Whoever knows it can be asked to tell
    -- the device something, so it is shown to nobody.
    kind         text        not null constraint push_devices_kind_check check (kind in ('web', 'fcm', 'apns')),
    registration text        not null constraint push_devices_registration_check
                 check (octet_length(registration) between 1 and 2048),
    -- A browser's keys: a point on P-256, and what it shares with us.
    p256dh       bytea       constraint push_devices_p256dh_check check ((kind = 'web') = (p256dh is not null) and length(p256dh) = 65),
    auth         bytea       constraint push_devices_auth_check check ((kind = 'web') = (auth is not null) and length(auth) = 16),
    name         text        not null constraint push_devices_name_check check (length(name) <= 100),
    locale       text        not null constraint push_devices_locale_check check (locale in ('id', 'en')),
    -- When it is not to be told: from one time of day to another, perhaps on the next day, by the clocks of a zone.
    quiet_from   time,
    quiet_to     time,
    quiet_zone   text        constraint push_devices_quiet_check
                 check (num_nulls(quiet_from, quiet_to, quiet_zone) in (0, 3) and quiet_from <> quiet_to),
    -- What of, and of which outlets alone; none for all.
    payments     boolean     not null,
    alerts       boolean     not null,
    only_outlets uuid[]      not null constraint push_devices_only_outlets_check check (cardinality(only_outlets) <= 100),
    created_at   timestamptz not null default now(),
    -- When an app last said that it is still there. It never says the same twice, so it tells one state from another.
    renewed_at   timestamptz not null default clock_timestamp(),
    -- Since when every note to it has failed; none if the last one has not. After a week of that it is removed.
    failing_since timestamptz,
    constraint push_devices_pkey primary key (merchant_id, device_id),
    -- One device is one person's of a merchant: whoever there registers it takes it over. At another merchant it is another
    -- device, for nobody here may see who has it there.
    constraint push_devices_registration_key unique (merchant_id, kind, registration)
);
create index push_devices_staff_idx on push_devices (merchant_id, staff_id);
create index push_devices_renewed_at_idx on push_devices (renewed_at);

-- What a device has been sent, or never will be: an event that is heard again is not sent to it again. No key leads to the
-- device, which may be gone.
create table push_told (
    merchant_id uuid        not null references merchants,
    -- The event's position: event `event` of entry `seq`, whose tag begins so.
    seq         bigint      not null,
    event       integer     not null constraint push_told_event_check check (event > 0),
    tag         bytea       not null constraint push_told_tag_check check (length(tag) = 4),
    device_id   uuid        not null,
    told_at     timestamptz not null default now(),
    constraint push_told_pkey primary key (merchant_id, seq, event, tag, device_id)
);
create index push_told_told_at_idx on push_told (told_at);

-- Who has seen a payment is asked for each that is told.
create index payments_seen_staff_idx on payments_seen (merchant_id, staff_id, seen_at);

-- Forgets what was told more than three days ago, a batch at a time: nothing that old is told.
create function push_told_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from push_told where ctid in (
        select ctid from push_told where told_at < now() - interval '3 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function push_told_expire(integer) from public;
grant execute on function push_told_expire(integer) to tillwire_app;

-- Forgets devices whose app has not been heard of for 90 days, a batch at a time. Nothing is sent to them.
create function push_devices_expire(batch integer) returns integer
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    gone integer;
begin
    delete from push_devices where ctid in (
        select ctid from push_devices where renewed_at < now() - interval '90 days' limit least(batch, 10000));
    get diagnostics gone = row_count;
    return gone;
end $$;
revoke all on function push_devices_expire(integer) from public;
grant execute on function push_devices_expire(integer) to tillwire_app;

alter table push_devices enable row level security;
alter table push_devices force row level security;
create policy own on push_devices to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For push_devices_expire, which runs as the owner.
create policy old on push_devices to current_user using (renewed_at < now() - interval '90 days');

alter table push_told enable row level security;
alter table push_told force row level security;
create policy own on push_told to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());
-- For push_told_expire, which runs as the owner.
create policy old on push_told to current_user using (told_at < now() - interval '3 days');

grant select, insert, update, delete on push_devices to tillwire_app;
grant select, insert on push_told to tillwire_app;
