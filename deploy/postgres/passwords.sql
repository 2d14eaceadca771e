-- Run after roles.sql by a superuser, with the passwords in the environment, where no log and no list of processes shows
-- them.
\getenv migrate MIGRATE_PASSWORD
\getenv app APP_PASSWORD
\getenv feed FEED_PASSWORD
\getenv relay RELAY_PASSWORD
set password_encryption = 'scram-sha-256';
set log_statement = 'none';
set log_min_duration_statement = -1;
alter role tillwire_migrate password :'migrate';
alter role tillwire_app password :'app';
alter role tillwire_feed password :'feed';
alter role tillwire_relay password :'relay';
