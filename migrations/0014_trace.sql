-- Which request an entry came of: the trace goes on where it is handled. Not hashed, for it is no fact about the merchant; null
-- where the hub itself wrote, and before there was this column.
alter table journal_entries add column trace uuid;
