-- Cards whose money is held first, and payments that somebody takes for paid before their provider has said so.

alter table payment_attempts
    -- Whether the card's money is held, and taken when somebody says so.
    add column hold              boolean     not null default false
        constraint payment_attempts_hold_check check (not hold or method = 'card'),
    -- What is taken of it, or is to be, since somebody has said so.
    add column capture_minor     bigint
        constraint payment_attempts_capture_check
        check (capture_minor is null or hold and capture_minor between 1 and amount_minor),
    -- When the provider was asked to take it. Null: it has certainly not been asked, or has said since that it did not.
    add column capture_called_at timestamptz
        constraint payment_attempts_capture_called_check check (capture_called_at is null or capture_minor is not null),
    -- Since when its sale is paid by it because somebody said so, who, and in their own words why. It is never taken back; what
    -- its provider says of it is written down beside.
    add column forced_at         timestamptz,
    add column forced_by         uuid,
    add column forced_reason     text
        constraint payment_attempts_forced_reason_check check (length(forced_reason) between 1 and 200),
    add constraint payment_attempts_forced_check check (num_nonnulls(forced_at, forced_by, forced_reason) in (0, 3));

-- Two matters more, beside those of refunds: nobody could find out what became of a payment; one that was forced is not paid.
alter table payment_tasks
    drop constraint payment_tasks_kind_check,
    add constraint payment_tasks_kind_check
        check (kind in ('paid_late', 'paid_too_much', 'amount_differs', 'currency_differs', 'merchant_differs', 'conflict',
                        'reversed', 'charged_back', 'code_differs', 'refund_stuck', 'refund_failed', 'refund_elsewhere', 'given_up',
                        'forced_unpaid'));

-- Sales that are open, voided or expired are few among those that are completed, and are asked for by themselves.
create index sales_not_completed_idx on sales (merchant_id, outlet_id, state, sale_id) where state <> 'completed';

-- What of the money that was taken for a sale is not there any more: it was refunded, or its bank or its provider has taken it back.
-- Of one payment never more than it brought.
create function sale_given_back(merchant uuid, sale uuid) returns bigint
    language sql stable
as $$
    select coalesce(sum(case
        when attempt.state in ('reversed', 'charged_back') then paid.amount_minor
        when attempt.state = 'canceled' and attempt.forced_at is null then paid.amount_minor
        else least(paid.amount_minor, (select coalesce(sum(amount_minor), 0) from refunds
                                       where refunds.merchant_id = merchant and refunds.payment_id = paid.payment_id
                                         and refunds.state = 'succeeded'))
        end), 0)::bigint
    from payments paid
    join payment_attempts attempt on attempt.merchant_id = paid.merchant_id and attempt.payment_id = paid.payment_id
    where paid.merchant_id = merchant and paid.sale_id = sale
$$;

-- Tasks that are open are few among those that ever were.
create index payment_tasks_open_idx on payment_tasks (merchant_id, task_id) where closed_at is null;
