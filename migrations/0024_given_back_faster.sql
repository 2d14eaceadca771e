-- What of a sale's money was given back is asked for twice whenever a payment comes. A function in SQL that is not written into the
-- query around it is parsed and planned anew in each statement that calls it, which took longer than the rest of those: one in
-- PL/pgSQL keeps its plan.
create or replace function sale_given_back(merchant uuid, sale uuid) returns bigint
    language plpgsql stable
as $$
begin
    return (
        select coalesce(sum(case
            when attempt.state in ('reversed', 'charged_back', 'canceled') then paid.amount_minor
            when attempt.forced_at is not null
                 and (attempt.state in ('failed', 'expired', 'paid_late')
                      or attempt.closing = 'expired' and attempt.state in ('unknown', 'pending', 'review')) then paid.amount_minor
            else least(paid.amount_minor, (select coalesce(sum(amount_minor), 0) from refunds
                                           where refunds.merchant_id = merchant and refunds.payment_id = paid.payment_id
                                             and refunds.state = 'succeeded'))
            end), 0)
        from payments paid
        join payment_attempts attempt on attempt.merchant_id = paid.merchant_id and attempt.payment_id = paid.payment_id
        where paid.merchant_id = merchant and paid.sale_id = sale);
end
$$;
