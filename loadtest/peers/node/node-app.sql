-- The tables of the Node app: a shop as one would begin it.
create table merchants (merchant_id uuid primary key, receipts bigint not null default 0);
create table stock (
    merchant_id uuid not null references merchants,
    variant_id  uuid not null,
    on_hand     numeric not null,
    primary key (merchant_id, variant_id)
);
create table sales (
    sale_id     uuid primary key default gen_random_uuid(),
    merchant_id uuid not null references merchants,
    number      bigint not null,
    register_id uuid not null,
    total_minor bigint not null,
    created_at  timestamptz not null default now(),
    unique (merchant_id, number)
);
create table sale_lines (
    sale_id          uuid not null references sales,
    line             integer not null,
    variant_id       uuid not null,
    quantity         numeric not null,
    unit_price_minor bigint not null,
    primary key (sale_id, line)
);
create table payments (
    payment_id   uuid primary key default gen_random_uuid(),
    sale_id      uuid not null references sales,
    method       text not null,
    amount_minor bigint not null
);
