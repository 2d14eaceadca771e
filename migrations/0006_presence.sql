-- Presence: who is at an outlet, by the screens of every gateway that lives.

-- The gateways that live. Each says so every few seconds, by this database's clock; one that has not said so for ten
-- seconds does not count.
create table gateway_nodes (
    -- Made anew whenever one starts.
    node_id uuid        constraint gateway_nodes_pkey primary key,
    -- Counts what the gateway has written of presence: whoever watches reads nothing that has not changed.
    changes bigint      not null default 0,
    beat_at timestamptz not null default clock_timestamp()
);

-- Who is at an outlet by the screens of one gateway, written when that changes. It goes with its gateway.
create table presence (
    merchant_id uuid not null references merchants,
    -- What tokens say: it need not be an outlet of ours.
    outlet_id   uuid not null,
    node_id     uuid not null constraint presence_node_fkey references gateway_nodes on delete cascade,
    -- {"people": [{"staff": …, "register": …, "role": "cashier", "since": 1790000000, "screens": 2}], "more": 0}
    people      text not null constraint presence_people_check check (octet_length(people) <= 65536),
    constraint presence_pkey primary key (merchant_id, outlet_id, node_id)
);
create index presence_node_idx on presence (node_id);

alter table presence enable row level security;
alter table presence force row level security;
create policy own on presence to tillwire_app
    using (merchant_id = current_merchant()) with check (merchant_id = current_merchant());

grant select, insert, update, delete on gateway_nodes to tillwire_app;
grant select, insert, update, delete on presence to tillwire_app;
