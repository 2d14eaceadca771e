-- The vault: secrets are kept sealed, and merchants have accounts at payment providers.
--
-- What is sealed has two columns: the sealed bytes, a version, a nonce, the ciphertext and its tag; and the data key that opens
-- them. Table, column, merchant, row and data key are part of the seal, so that nothing sealed opens in another place.

-- A merchant's own keys, each sealed with a key that nodes have and the database has not. The newest seals. None is ever
-- removed, and what is sealed refers to it: nothing can be sealed with a key that is not kept.
create table data_keys (
    merchant_id uuid        not null references merchants,
    key_id      uuid        not null,
    -- The node's key that it is sealed with, by its id, which is a part of a hash.
    vault_key   text        not null constraint data_keys_vault_key_check check (vault_key ~ '^[0-9a-f]{16}$'),
    sealed      bytea       not null constraint data_keys_sealed_check check (octet_length(sealed) = 61),
    created_at  timestamptz not null default clock_timestamp(),
    -- When it was sealed anew, with another key of the nodes'.
    sealed_at   timestamptz not null default clock_timestamp(),
    constraint data_keys_pkey primary key (merchant_id, key_id)
);
create index data_keys_vault_key_idx on data_keys (vault_key, merchant_id);

-- Secrets of webhooks: sealed, or in clear where they are from before there was a key, or where there is none.
alter table webhook_secrets
    alter column secret drop not null,
    add column sealed bytea constraint webhook_secrets_sealed_check check (octet_length(sealed) between 53 and 93),
    add column data_key uuid,
    add constraint webhook_secrets_one_check
        check (num_nonnulls(secret, sealed) = 1 and (sealed is null) = (data_key is null)),
    add constraint webhook_secrets_data_key_fkey foreign key (merchant_id, data_key) references data_keys;
create index webhook_secrets_clear_idx on webhook_secrets (merchant_id) where secret is not null;

-- Registrations of devices: sealed with a browser's keys, and then found by a keyed hash; or in clear, for the same reasons.
alter table push_devices
    alter column registration drop not null,
    add column sealed bytea constraint push_devices_sealed_check check (octet_length(sealed) between 30 and 2200),
    add column data_key uuid,
    add column mark bytea constraint push_devices_mark_check check (octet_length(mark) = 32),
    drop constraint push_devices_p256dh_check,
    drop constraint push_devices_auth_check,
    add constraint push_devices_p256dh_check
        check ((kind = 'web' and registration is not null) = (p256dh is not null) and length(p256dh) = 65),
    add constraint push_devices_auth_check
        check ((kind = 'web' and registration is not null) = (auth is not null) and length(auth) = 16),
    add constraint push_devices_one_check
        check (num_nonnulls(registration, sealed) = 1 and num_nonnulls(sealed, data_key, mark) in (0, 3)),
    add constraint push_devices_mark_key unique (merchant_id, kind, mark),
    add constraint push_devices_data_key_fkey foreign key (merchant_id, data_key) references data_keys;
create index push_devices_clear_idx on push_devices (merchant_id) where registration is not null;

-- Who a merchant is to a payment provider, and the keys that it was given there, which are never in clear.
create table provider_accounts (
    merchant_id    uuid        not null references merchants,
    account_id     uuid        not null,
    provider       text        not null constraint provider_accounts_provider_check check (provider in ('midtrans', 'xendit')),
    -- Whether money moves.
    mode           text        not null constraint provider_accounts_mode_check check (mode in ('test', 'live')),
    label          text        not null constraint provider_accounts_label_check check (length(label) <= 100),
    -- The one outlet that it is for; null for all that have none of their own.
    outlet_id      uuid,
    -- As the provider names the merchant.
    merchant_there text        not null constraint provider_accounts_merchant_there_check
                               check (octet_length(merchant_there) between 1 and 256),
    -- Whether what a notification says is asked for at the provider each time, or only where its signature does not cover it.
    confirm        text        not null default 'strict' constraint provider_accounts_confirm_check
                               check (confirm in ('strict', 'fast')),
    enabled        boolean     not null,
    -- The credentials.
    sealed         bytea       not null constraint provider_accounts_sealed_check check (octet_length(sealed) between 30 and 4096),
    data_key       uuid        not null,
    -- How the key ends, for people to tell it by, and since when it is this one.
    key_ends       text        not null constraint provider_accounts_key_ends_check check (octet_length(key_ends) <= 4),
    keys_since     timestamptz not null default now(),
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    version        bigint      not null default 1,
    constraint provider_accounts_pkey primary key (merchant_id, account_id),
    constraint provider_accounts_merchant_there_key unique (merchant_id, provider, mode, merchant_there),
    constraint provider_accounts_outlet_fkey foreign key (merchant_id, outlet_id) references outlets,
    constraint provider_accounts_data_key_fkey foreign key (merchant_id, data_key) references data_keys
);
-- Who is paid is never a matter of chance.
create unique index provider_accounts_enabled_key on provider_accounts (merchant_id, provider, mode, outlet_id)
    nulls not distinct where enabled;

-- Which of the nodes' keys are needed, for how many data keys each, and a merchant who has one of those.
create function vault_keys_needed() returns table (vault_key text, data_keys bigint, merchant_id uuid)
    language sql stable security definer set search_path = public, pg_temp
as $$
    select vault_key, count(*), min(merchant_id::text)::uuid from data_keys group by vault_key order by vault_key;
$$;
revoke all on function vault_keys_needed() from public;
grant execute on function vault_keys_needed() to tillwire_app;

-- Merchants behind one, by id, who have a data key that is sealed with another than this of the nodes' keys.
create function vault_merchants(but text, behind uuid, batch integer) returns setof uuid
    language sql stable security definer set search_path = public, pg_temp
as $$
    select distinct merchant_id from data_keys where vault_key <> but and merchant_id > behind
    order by merchant_id limit least(batch, 1000);
$$;
revoke all on function vault_merchants(text, uuid, integer) from public;
grant execute on function vault_merchants(text, uuid, integer) to tillwire_app;

-- Merchants behind one, by id, who have secrets in clear.
create function vault_merchants_in_clear(behind uuid, batch integer) returns setof uuid
    language sql stable security definer set search_path = public, pg_temp
as $$
    select merchant_id from webhook_secrets where secret is not null and merchant_id > behind
    union
    select merchant_id from push_devices where registration is not null and merchant_id > behind
    order by merchant_id limit least(batch, 1000);
$$;
revoke all on function vault_merchants_in_clear(uuid, integer) from public;
grant execute on function vault_merchants_in_clear(uuid, integer) to tillwire_app;

alter table data_keys enable row level security;
alter table data_keys force row level security;
create policy own on data_keys to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

alter table provider_accounts enable row level security;
alter table provider_accounts force row level security;
create policy own on provider_accounts to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

-- For the functions above, which run as the owner and answer no key.
create policy vault on data_keys for select to current_user using (true);
create policy vault on webhook_secrets for select to current_user using (secret is not null);
create policy vault on push_devices for select to current_user using (registration is not null);

grant select, insert, update (vault_key, sealed, sealed_at) on data_keys to tillwire_app;
grant select, insert, update on provider_accounts to tillwire_app;
