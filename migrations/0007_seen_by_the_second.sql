-- What a screen says again within a second is no further row.

-- A row of payments_seen stands for the last word of a second of the clock: within it, a further position takes the place of
-- the one before. Nothing else of a row may change, and nobody takes one away before its time.
grant update (seq, event, tag, seen_at) on payments_seen to tillwire_app;
