-- Run by a superuser in the database `postgres`, where PgBouncer runs one, with its password in the environment.
--
-- PgBouncer looks up the SCRAM secrets of whoever asks to come in. It may know those of the two roles that connect
-- through it, and nobody else's.
\getenv pgbouncer PGBOUNCER_PASSWORD
set log_min_duration_statement = -1;
create role pgbouncer login password :'pgbouncer';
create schema pgbouncer;
grant usage on schema pgbouncer to pgbouncer;

create function pgbouncer.secret_of(role name) returns table (name name, secret text)
language sql stable security definer set search_path = pg_catalog
as $$
    select rolname, rolpassword from pg_authid
    where rolname = role and rolname in ('tillwire_app', 'tillwire_feed') and rolcanlogin
$$;
revoke all on function pgbouncer.secret_of(name) from public;
grant execute on function pgbouncer.secret_of(name) to pgbouncer;
