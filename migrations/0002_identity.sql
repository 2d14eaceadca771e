-- Who acts for a merchant, and whose tokens are no longer good.

create table staff (
    merchant_id uuid        not null references merchants,
    staff_id    uuid        not null,
    name        text        not null constraint staff_name_check check (length(name) between 1 and 200),
    role        text        not null constraint staff_role_check
        check (role in ('owner', 'manager', 'cashier', 'clerk', 'accountant', 'auditor', 'display')),
    created_at  timestamptz not null default now(),
    constraint staff_pkey primary key (merchant_id, staff_id)
);

-- Tokens of this bearer that were issued up to a moment are dead. A bearer need not be in `staff`: tokens are also
-- minted for machines.
create table revocations (
    merchant_id  uuid        not null references merchants,
    staff_id     uuid        not null,
    issued_until timestamptz not null,
    constraint revocations_pkey primary key (merchant_id, staff_id)
);

alter table staff enable row level security;
alter table staff force row level security;
create policy own on staff to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

alter table revocations enable row level security;
alter table revocations force row level security;
create policy own on revocations to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

grant select, insert on staff to tillwire_app;
grant select, insert, update on revocations to tillwire_app;
