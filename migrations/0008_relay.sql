-- The durable path: how far the relay has moved each journal into RabbitMQ.

-- How far the relay has come. Everything up to and with this entry is confirmed by the broker; of what follows, some may
-- be there too, and will come again. Two relays that both believe to lead do no harm, for none moves it back; only where a
-- journal is another than before, or has a hole, is it put elsewhere.
create table relay_cursors (
    merchant_id uuid        constraint relay_cursors_pkey primary key references merchants,
    seq         bigint      not null,
    -- How the entry's tag begins, as in a position.
    tag         bytea       not null constraint relay_cursors_tag_check check (length(tag) = 4),
    moved_at    timestamptz not null default now()
);

-- What was sold before there was a relay is history: nobody is to be told of it now. Row-level security holds for us, too.
create policy moving on journal_heads for select to current_user using (true);
insert into relay_cursors (merchant_id, seq, tag) select merchant_id, seq, substr(tag, 1, 4) from journal_heads where seq > 0;
drop policy moving on journal_heads;

alter table relay_cursors enable row level security;
alter table relay_cursors force row level security;
create policy relay on relay_cursors to tillwire_relay using (true) with check (true);

grant select, insert, update on relay_cursors to tillwire_relay;
