-- The first slice of commerce: outlets and registers, the catalogue, stock, sales and payments.
--
-- Every key begins with the merchant, references too: a constraint's own checks do not see row-level security.

create table outlets (
    merchant_id uuid        not null references merchants,
    outlet_id   uuid        not null,
    code        text        not null constraint outlets_code_check check (code ~ '^[A-Z0-9-]{1,16}$'),
    name        text        not null constraint outlets_name_check check (length(name) between 1 and 200),
    -- An IANA name. The day that a sale counts for is the outlet's own.
    time_zone   text        not null,
    created_at  timestamptz not null default now(),
    constraint outlets_pkey primary key (merchant_id, outlet_id),
    constraint outlets_code_key unique (merchant_id, code)
);

create table registers (
    merchant_id uuid        not null,
    register_id uuid        not null,
    outlet_id   uuid        not null,
    code        text        not null constraint registers_code_check check (code ~ '^[A-Z0-9-]{1,16}$'),
    name        text        not null constraint registers_name_check check (length(name) between 1 and 200),
    -- The last receipt of the register's own series: a row that only this till's sales contend for.
    last_receipt bigint     not null default 0,
    created_at  timestamptz not null default now(),
    constraint registers_pkey primary key (merchant_id, register_id),
    constraint registers_code_key unique (merchant_id, outlet_id, code),
    constraint registers_outlet_key unique (merchant_id, outlet_id, register_id),
    constraint registers_outlet_fkey foreign key (merchant_id, outlet_id) references outlets
);

create table products (
    merchant_id uuid        not null references merchants,
    product_id  uuid        not null,
    name        text        not null constraint products_name_check check (length(name) between 1 and 200),
    department  text,
    category    text,
    brand       text,
    package     text,
    active      boolean     not null default true,
    version     bigint      not null default 1,
    created_at  timestamptz not null default now(),
    constraint products_pkey primary key (merchant_id, product_id)
);

create table variants (
    merchant_id uuid        not null,
    variant_id  uuid        not null,
    product_id  uuid        not null,
    -- The place among the product's variants.
    place       integer     not null,
    sku         text        not null constraint variants_sku_check check (length(sku) between 1 and 64),
    name        text,
    price_minor bigint      not null constraint variants_price_check check (price_minor between 0 and 1000000000000),
    constraint variants_pkey primary key (merchant_id, variant_id),
    constraint variants_sku_key unique (merchant_id, sku),
    constraint variants_product_fkey foreign key (merchant_id, product_id) references products
);
create index variants_product_idx on variants (merchant_id, product_id, place);

create table barcodes (
    merchant_id uuid not null,
    barcode     text not null constraint barcodes_barcode_check check (length(barcode) between 1 and 64),
    variant_id  uuid not null,
    constraint barcodes_pkey primary key (merchant_id, barcode),
    constraint barcodes_variant_fkey foreign key (merchant_id, variant_id) references variants
);
create index barcodes_variant_idx on barcodes (merchant_id, variant_id);

-- The ledger of stock: what moved, when, why. Only ever inserted into.
create table stock_moves (
    merchant_id uuid           not null,
    move_id     uuid           not null,
    outlet_id   uuid           not null,
    variant_id  uuid           not null,
    quantity    numeric(14, 3) not null constraint stock_moves_quantity_check check (quantity <> 0),
    on_hand     numeric(14, 3) not null,
    reason      text           not null constraint stock_moves_reason_check
        check (reason in ('sale', 'received', 'counted', 'lost')),
    document_id uuid,
    actor_id    uuid           not null,
    occurred_at timestamptz    not null,
    recorded_at timestamptz    not null default now(),
    constraint stock_moves_pkey primary key (merchant_id, move_id),
    constraint stock_moves_outlet_fkey foreign key (merchant_id, outlet_id) references outlets,
    constraint stock_moves_variant_fkey foreign key (merchant_id, variant_id) references variants
);
create index stock_moves_variant_idx on stock_moves (merchant_id, outlet_id, variant_id, move_id);

-- The level of each variant at each outlet: a projection of the ledger, kept in the same transaction. It can not be
-- less than nothing.
create table stock_levels (
    merchant_id uuid           not null,
    outlet_id   uuid           not null,
    variant_id  uuid           not null,
    on_hand     numeric(14, 3) not null constraint stock_levels_on_hand_check check (on_hand >= 0),
    version     bigint         not null default 1,
    constraint stock_levels_pkey primary key (merchant_id, outlet_id, variant_id),
    constraint stock_levels_outlet_fkey foreign key (merchant_id, outlet_id) references outlets,
    constraint stock_levels_variant_fkey foreign key (merchant_id, variant_id) references variants
) with (fillfactor = 80);

create table sales (
    merchant_id    uuid        not null,
    sale_id        uuid        not null,
    outlet_id      uuid        not null,
    register_id    uuid        not null,
    number         text        not null constraint sales_number_check check (length(number) between 1 and 64),
    business_date  date        not null,
    currency       text        not null,
    subtotal_minor bigint      not null,
    discount_minor bigint      not null,
    total_minor    bigint      not null,
    actor_id       uuid        not null,
    occurred_at    timestamptz not null,
    recorded_at    timestamptz not null default now(),
    constraint sales_pkey primary key (merchant_id, sale_id),
    constraint sales_number_key unique (merchant_id, number),
    constraint sales_register_fkey foreign key (merchant_id, outlet_id, register_id)
        references registers (merchant_id, outlet_id, register_id),
    constraint sales_total_check check (total_minor = subtotal_minor - discount_minor and discount_minor >= 0
        and total_minor >= 0)
);
create index sales_outlet_idx on sales (merchant_id, outlet_id, sale_id);
create index sales_day_idx on sales (merchant_id, business_date, outlet_id);

create table sale_lines (
    merchant_id      uuid           not null,
    sale_id          uuid           not null,
    line             integer        not null,
    variant_id       uuid           not null,
    sku              text           not null,
    name             text           not null,
    quantity         numeric(14, 3) not null constraint sale_lines_quantity_check check (quantity > 0),
    unit_price_minor bigint         not null,
    discount_minor   bigint         not null,
    total_minor      bigint         not null,
    constraint sale_lines_pkey primary key (merchant_id, sale_id, line),
    constraint sale_lines_sale_fkey foreign key (merchant_id, sale_id) references sales,
    constraint sale_lines_variant_fkey foreign key (merchant_id, variant_id) references variants
);

create table payments (
    merchant_id    uuid        not null,
    payment_id     uuid        not null,
    sale_id        uuid        not null,
    place          integer     not null,
    method         text        not null constraint payments_method_check
        check (method in ('cash', 'card', 'qris', 'transfer', 'ewallet')),
    amount_minor   bigint      not null,
    tendered_minor bigint      not null,
    change_minor   bigint      not null,
    captured_at    timestamptz not null,
    constraint payments_pkey primary key (merchant_id, payment_id),
    constraint payments_sale_fkey foreign key (merchant_id, sale_id) references sales,
    constraint payments_amount_check check (amount_minor > 0 and change_minor >= 0
        and tendered_minor = amount_minor + change_minor)
);
create index payments_sale_idx on payments (merchant_id, sale_id, place);

-- The ledger is written once. The application has no grant to change it; this holds for everyone else.
create function refuse_change() returns trigger
    language plpgsql
as $$
begin
    raise exception '% is only ever inserted into', tg_table_name;
end $$;
create trigger insert_only before update or delete or truncate on stock_moves
    for each statement execute function refuse_change();

do $$
declare
    walled text;
begin
    foreach walled in array array['outlets', 'registers', 'products', 'variants', 'barcodes', 'stock_moves',
                                  'stock_levels', 'sales', 'sale_lines', 'payments'] loop
        execute format('alter table %I enable row level security', walled);
        execute format('alter table %I force row level security', walled);
        execute format('create policy own on %I to tillwire_app using (merchant_id = current_merchant())
            with check (merchant_id = current_merchant())', walled);
        execute format('grant select, insert on %I to tillwire_app', walled);
    end loop;
end $$;
grant update (last_receipt) on registers to tillwire_app;
grant update on products, variants, stock_levels to tillwire_app;
grant delete on barcodes to tillwire_app;
