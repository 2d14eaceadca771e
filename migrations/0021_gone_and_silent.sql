-- Money that is gone, and providers that stay silent: what was taken for paid and is not counts as gone; money that pays another
-- sale says so; and whoever asks, and is not answered, gives up.

-- In the order in which they are locked elsewhere.
lock table payment_tasks, payment_attempts in access exclusive mode;

alter table payment_attempts
    -- Since when its provider was asked, and has not answered, without anything new meanwhile.
    add column unanswered_since timestamptz,
    -- The other sale that its money pays, since a person has said so.
    add column accepted_for     uuid;

-- Those that were accepted before. The walls between merchants are the owner's as well, but for this moment.
alter table payment_attempts no force row level security;
alter table payment_tasks no force row level security;
update payment_attempts attempt set accepted_for = task.accepted_for
from payment_tasks task
where task.merchant_id = attempt.merchant_id and task.payment_id = attempt.payment_id and task.accepted_for <> attempt.sale_id;
alter table payment_attempts force row level security;
alter table payment_tasks force row level security;

-- What of the money that was taken for a sale is not there any more: it was refunded, or its bank or its provider has taken it back;
-- or somebody took it for paid, and it is not, or nobody could find out, or it came when its sale had no use for it any more. Of one
-- payment never more than it brought.
create or replace function sale_given_back(merchant uuid, sale uuid) returns bigint
    language sql stable
as $$
    select coalesce(sum(case
        when attempt.state in ('reversed', 'charged_back', 'canceled') then paid.amount_minor
        when attempt.forced_at is not null
             and (attempt.state in ('failed', 'expired', 'paid_late')
                  or attempt.closing = 'expired' and attempt.state in ('unknown', 'pending', 'review')) then paid.amount_minor
        else least(paid.amount_minor, (select coalesce(sum(amount_minor), 0) from refunds
                                       where refunds.merchant_id = merchant and refunds.payment_id = paid.payment_id
                                         and refunds.state = 'succeeded'))
        end), 0)::bigint
    from payments paid
    join payment_attempts attempt on attempt.merchant_id = paid.merchant_id and attempt.payment_id = paid.payment_id
    where paid.merchant_id = merchant and paid.sale_id = sale
$$;

-- One that nobody confirms holds up no other for ever, but for what it takes: a person was told of it.
drop index refunds_under_way_key;
create unique index refunds_under_way_key on refunds (merchant_id, payment_id)
    where origin = 'hub' and state in ('created', 'unknown', 'pending') and stuck_at is null;
