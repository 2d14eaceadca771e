-- Run once by a superuser, before the first `tillwire migrate`. Give each role a password of its own:
--   alter role tillwire_app password '…';
create role tillwire_migrate login;
create role tillwire_app login;
create role tillwire_feed login;
create role tillwire_relay login;
create database tillwire owner tillwire_migrate;
revoke all on database tillwire from public;
grant connect on database tillwire to tillwire_app, tillwire_feed, tillwire_relay;
