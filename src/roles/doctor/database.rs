//! The database: reachable, a primary of the right version, migrated, walled off, and on time.
//!
//! The catalogue is asked, which is there before any migration; so the queries are not checked against a schema.

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};
use tillwire_channels::Moment;
use time::Duration;

use super::{CHECK_MAX, Finding, within};
use crate::config::Database;
use crate::journal::pool;
use crate::schema::MIGRATOR;

/// The oldest major version whose SQL we speak.
const MAJOR_MIN: i32 = 15;
/// How far our clock and the database's may differ: tokens are checked by the one, and revoked by the other.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::seconds(2);

const MIGRATE: &str = "Run `tillwire migrate`";

/// Looks at the database as each role that a node is given, and as its owner if we are told how.
pub async fn check(config: &Database, owner: Option<&SecretString>) -> Vec<Finding> {
    let app = Door { check: "database", flag: "--database-url", role: Some("tillwire_app") };
    let feed = Door { check: "feed", flag: "--feed-database-url", role: Some("tillwire_feed") };
    let relay = Door { check: "relay", flag: "--relay-database-url", role: Some("tillwire_relay") };
    let (app, feed, relay) = tokio::join!(
        app.look_in(config.database_url.expose_secret()),
        feed.look_in(config.feed_database_url.expose_secret()),
        async {
            match &config.relay_database_url {
                Some(url) => relay.look_in(url.expose_secret()).await,
                None => Look(None, Vec::new()),
            }
        }
    );
    let mut findings = Vec::new();
    let (app, feed, relay) = (app.told(&mut findings), feed.told(&mut findings), relay.told(&mut findings));
    let mut same = vec![("--database-url", &app), ("--feed-database-url", &feed), ("--relay-database-url", &relay)];
    let owner = match owner {
        Some(url) => {
            let door = Door { check: "owner", flag: "--migrate-database-url", role: None };
            door.look_in(url.expose_secret()).await.told(&mut findings)
        }
        None => None,
    };
    same.push(("--migrate-database-url", &owner));
    findings.extend(one_and_the_same(&same));
    if let Some(mut seen) = app {
        findings.push(within("clock", "Is the database overloaded?", clock(&mut seen.sql)).await);
        findings.push(within("walls", MIGRATE, walls_of_app(&mut seen.sql)).await);
        findings.push(within("partitions", MIGRATE, partitions(&mut seen.sql)).await);
        let _ = seen.sql.close().await;
    }
    if let Some(mut seen) = feed {
        findings.push(within("feed_walls", MIGRATE, walls_of_feed(&mut seen.sql)).await);
        let _ = seen.sql.close().await;
    }
    findings.push(match owner {
        Some(mut seen) => within("migrations", MIGRATE, migrations(&mut seen.sql)).await,
        None => Finding::warning(
            "migrations",
            "not compared: only the owner can read which were applied",
            "Give --migrate-database-url",
        ),
    });
    findings
}

/// One of the ways in.
struct Door {
    check: &'static str,
    flag: &'static str,
    /// Who must come in by it; the owner may be called anything.
    role: Option<&'static str>,
}

/// Who we are behind a door, and where.
struct Seen {
    sql: PgConnection,
    server: Server,
}

#[derive(Debug, sqlx::FromRow)]
struct Server {
    role: String,
    /// Superuser, or not held by row-level security.
    powerful: bool,
    version: String,
    version_num: i32,
    standby: bool,
    database: String,
    started_at: Moment,
}

/// What looking behind a door came to.
struct Look(Option<Seen>, Vec<Finding>);

impl Look {
    fn told(self, findings: &mut Vec<Finding>) -> Option<Seen> {
        findings.extend(self.1);
        self.0
    }
}

impl Door {
    async fn look_in(&self, url: &str) -> Look {
        let look = async {
            let mut sql = pool::connect(url).await?;
            let server = sqlx::query_as(
                "select current_user::text as role, rolsuper or rolbypassrls as powerful,
                        current_setting('server_version') as version,
                        current_setting('server_version_num')::int as version_num, pg_is_in_recovery() as standby,
                        current_database()::text as database, pg_postmaster_start_time() as started_at
                 from pg_roles where rolname = current_user",
            )
            .fetch_one(&mut sql)
            .await?;
            anyhow::Ok(Seen { sql, server })
        };
        match tokio::time::timeout(CHECK_MAX, look).await {
            Ok(Ok(seen)) => {
                let findings = self.judge(&seen.server);
                Look(Some(seen), findings)
            }
            Ok(Err(error)) => {
                let cure = self.cure(&error);
                Look(None, vec![Finding::wrong(self.check, format!("{error:#}"), cure)])
            }
            Err(_) => {
                let detail = format!("no answer within {CHECK_MAX:?}");
                Look(
                    None,
                    vec![Finding::wrong(
                        self.check,
                        detail,
                        format!("Is the server that {} names overloaded?", self.flag),
                    )],
                )
            }
        }
    }

    fn judge(&self, server: &Server) -> Vec<Finding> {
        let mut wrong = Vec::new();
        let mut say = |detail: String, cure: String| wrong.push(Finding::wrong(self.check, detail, cure));
        let role = &server.role;
        if server.version_num / 10_000 < MAJOR_MIN {
            say(format!("PostgreSQL {}", server.version), format!("Upgrade it to {MAJOR_MIN} or newer"));
        }
        if server.standby {
            say("a standby, which is behind and takes no writes".into(), format!("Let {} name the primary", self.flag));
        }
        if self.role.is_some_and(|wanted| wanted != role) {
            let wanted = self.role.unwrap_or_default();
            say(
                format!("we come in as {role}, for whom there are no walls"),
                format!("Let {} name {wanted}", self.flag),
            );
        }
        if self.role.is_some() && server.powerful {
            say(
                format!("{role} is a superuser or bypasses row-level security"),
                format!("alter role {role} nosuperuser nobypassrls"),
            );
        }
        if wrong.is_empty() {
            let detail = format!("PostgreSQL {}, a primary, as {role}", server.version);
            wrong.push(Finding::good(self.check, detail));
        }
        wrong
    }

    /// What to do when nobody let us in.
    fn cure(&self, error: &anyhow::Error) -> String {
        let flag = self.flag;
        match error.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Io(_)) => format!("Is it running? {flag} says where"),
            Some(sqlx::Error::Tls(_)) => {
                format!("Is its certificate one that this machine trusts? {flag} may say `sslmode`")
            }
            Some(sqlx::Error::Database(refusal)) => match refusal.code().as_deref() {
                Some("28P01" | "28000") => format!("Is the password in {flag} right, and does pg_hba.conf let us in?"),
                Some("3D000") => "Create the database, as deploy/postgres/roles.sql does".into(),
                Some("42501") => "Grant the role `connect`, as deploy/postgres/roles.sql does".into(),
                Some("53300") => "Raise max_connections, or put PgBouncer before it".into(),
                Some("57P03") => "It is starting or stopping: try again".into(),
                _ => format!("Does {flag} name the right server?"),
            },
            _ => format!("Is {flag} of the form postgres://role:password@host/database?"),
        }
    }
}

/// Rows that one role writes must be those that the other reads.
fn one_and_the_same(doors: &[(&str, &Option<Seen>)]) -> Option<Finding> {
    let place = |seen: &Seen| (seen.server.database.clone(), seen.server.started_at);
    let seen: Vec<_> = doors.iter().filter_map(|(flag, seen)| Some((flag, place(seen.as_ref()?)))).collect();
    let (first, first_place) = seen.first()?;
    let (other, _) = seen.iter().find(|(_, other_place)| other_place != first_place)?;
    Some(Finding::wrong(
        "one_database",
        format!("{first} and {other} name two different databases"),
        "Let both name the same one, on the primary",
    ))
}

async fn clock(sql: &mut PgConnection) -> anyhow::Result<Finding> {
    let before = Moment::now_utc();
    let theirs: Moment = sqlx::query_scalar("select clock_timestamp()").fetch_one(sql).await?;
    Ok(judge_clock(before, theirs, Moment::now_utc()))
}

/// The database looked at its clock at some moment between our two looks at ours.
fn judge_clock(before: Moment, theirs: Moment, after: Moment) -> Finding {
    let difference = if theirs < before {
        before - theirs
    } else if theirs > after {
        theirs - after
    } else {
        Duration::ZERO
    };
    if difference <= CLOCK_DIFFERENCE_MAX {
        return Finding::good("clock", format!("within {} ms of the database's", difference.whole_milliseconds()));
    }
    let (seconds, which) = (difference.as_seconds_f64(), if theirs < before { "ahead of" } else { "behind" });
    Finding::wrong(
        "clock",
        format!("ours is {seconds:.1} s {which} the database's: tokens may be refused, or live on after a revocation"),
        "Let NTP set both clocks",
    )
}

/// A merchant's rows are seen by that merchant and by nobody else.
async fn walls_of_app(sql: &mut PgConnection) -> anyhow::Result<Finding> {
    let wrong = |detail: String, cure: &str| Ok(Finding::wrong("walls", detail, cure));
    let is_there: bool =
        sqlx::query_scalar("select to_regclass('public.journal_heads') is not null").fetch_one(&mut *sql).await?;
    if !is_there {
        return wrong("there is no schema yet".into(), MIGRATE);
    }
    let open: String = sqlx::query_scalar(
        "select coalesce(string_agg(relname, ', ' order by relname), '') from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
           and exists (select from pg_attribute
                       where attrelid = pg_class.oid and attname = 'merchant_id' and not attisdropped)
           and not (relrowsecurity and relforcerowsecurity)",
    )
    .fetch_one(&mut *sql)
    .await?;
    if !open.is_empty() {
        let cure = "As their owner: alter table … enable row level security, force row level security";
        return wrong(format!("row-level security is not forced on {open}"), cure);
    }
    let reachable: String = sqlx::query_scalar(
        "select coalesce(string_agg(child.relname, ', ' order by child.relname), '')
         from pg_inherits join pg_class child on child.oid = inhrelid
         where child.relnamespace = 'public'::regnamespace
           and has_table_privilege(child.oid, 'select, insert, update, delete, truncate')",
    )
    .fetch_one(&mut *sql)
    .await?;
    if !reachable.is_empty() {
        let cure = "As their owner: revoke all on … from tillwire_app. The way in is the parent";
        return wrong(format!("there are grants on the partitions {reachable}"), cure);
    }
    // The proof of it all: nobody is named, so nobody is seen.
    let seen: i64 = sqlx::query_scalar("select count(*) from merchants").fetch_one(&mut *sql).await?;
    if seen > 0 {
        return wrong(
            format!("{seen} merchants are seen by whoever names none"),
            "Look for policies that are not of our migrations",
        );
    }
    Ok(Finding::good("walls", "every merchant's rows are walled off, partitions too"))
}

/// The feed reads heads and entries, and nothing else.
async fn walls_of_feed(sql: &mut PgConnection) -> anyhow::Result<Finding> {
    let (reads, more): (bool, String) = sqlx::query_as(
        "select coalesce(bool_and(has_table_privilege(oid, 'select')) filter (where ours), false),
                coalesce(string_agg(relname, ', ' order by relname)
                         filter (where has_table_privilege(oid, 'insert, update, delete, truncate')
                                    or not ours and has_table_privilege(oid, 'select')), '')
         from (select oid, relname, relname in ('journal_heads', 'journal_entries') as ours from pg_class
               where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')) tables",
    )
    .fetch_one(sql)
    .await?;
    Ok(match (reads, more.as_str()) {
        (true, "") => Finding::good("feed_walls", "reads heads and entries, and nothing else"),
        (false, _) => Finding::wrong("feed_walls", "the feed cannot read the journal", MIGRATE),
        (true, more) => Finding::wrong(
            "feed_walls",
            format!("the feed's role has grants on {more}"),
            "As their owner: revoke them from tillwire_feed",
        ),
    })
}

/// Without next month's partition, nobody can write on its first day.
async fn partitions(sql: &mut PgConnection) -> anyhow::Result<Finding> {
    let missing: String = sqlx::query_scalar(
        "select coalesce(string_agg(name, ', '), '')
         from (select 'journal_entries_' || to_char(now() at time zone 'utc' + make_interval(months => ahead), 'YYYY_MM')
                      as name
               from generate_series(0, 1) as ahead) wanted
         where to_regclass('public.' || name) is null",
    )
    .fetch_one(sql)
    .await?;
    Ok(if missing.is_empty() {
        Finding::good("partitions", "this month's and next month's are there")
    } else {
        let cure = "A node that serves REST makes them at its start, and hourly: start one, and look in its log";
        Finding::wrong("partitions", format!("missing: {missing}"), cure)
    })
}

/// A migration as the database remembers it.
#[derive(Debug, sqlx::FromRow)]
struct Applied {
    version: i64,
    success: bool,
    checksum: Vec<u8>,
}

async fn migrations(sql: &mut PgConnection) -> anyhow::Result<Finding> {
    let remembered: bool =
        sqlx::query_scalar("select to_regclass('public._sqlx_migrations') is not null").fetch_one(&mut *sql).await?;
    let applied: Vec<Applied> = if remembered {
        sqlx::query_as("select version, success, checksum from _sqlx_migrations order by version")
            .fetch_all(sql)
            .await
            .context("reading which were applied")?
    } else {
        Vec::new()
    };
    let ours: Vec<(i64, &[u8])> =
        MIGRATOR.iter().map(|migration| (migration.version, migration.checksum.as_ref())).collect();
    Ok(judge_migrations(&ours, &applied))
}

fn judge_migrations(ours: &[(i64, &[u8])], applied: &[Applied]) -> Finding {
    let wrong = |detail: String, cure: &str| Finding::wrong("migrations", detail, cure);
    if let Some(half) = applied.iter().find(|it| !it.success) {
        return wrong(format!("{:04} failed half-way", half.version), "Look at what it left, and put it right by hand");
    }
    if let Some(newer) = applied.iter().find(|it| ours.iter().all(|(version, _)| *version != it.version)) {
        let cure = "Deploy the version that brought it; older ones may run on until then";
        return wrong(format!("{:04} is unknown to this version of tillwire", newer.version), cure);
    }
    let of_ours = |version: i64| applied.iter().find(|it| it.version == version);
    if let Some((version, _)) =
        ours.iter().find(|(version, sum)| of_ours(*version).is_some_and(|it| it.checksum != *sum))
    {
        return wrong(
            format!("{version:04} is not what was applied"),
            "Released migrations are never edited: build from the right sources",
        );
    }
    let missing: Vec<String> = ours
        .iter()
        .filter(|(version, _)| of_ours(*version).is_none())
        .map(|(version, _)| format!("{version:04}"))
        .collect();
    if !missing.is_empty() {
        return wrong(format!("not applied: {}", missing.join(", ")), MIGRATE);
    }
    Finding::good("migrations", format!("all {} are applied, and no other", ours.len()))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        let noon = Moment::UNIX_EPOCH;
        let look = |theirs: f64| judge_clock(noon, noon + Duration::seconds_f64(theirs), noon + Duration::seconds(1));
        for theirs in [-2.0, 0.0, 0.5, 3.0] {
            assert_eq!(look(theirs).verdict, Verdict::Good, "{theirs}");
        }
        assert!(look(-2.1).detail.contains("2.1 s ahead of"));
        assert!(look(3.2).detail.contains("2.2 s behind"));
    }

    #[test]
    fn migrations_are_ours_and_all_of_them() {
        let applied = |version: i64, sum: u8| Applied { version, success: true, checksum: vec![sum] };
        let ours: [(i64, &[u8]); 2] = [(1, &[1]), (2, &[2])];
        let judged = |applied: &[Applied]| judge_migrations(&ours, applied).detail;
        assert!(judged(&[applied(1, 1), applied(2, 2)]).starts_with("all 2 are applied"));
        assert_eq!(judged(&[]), "not applied: 0001, 0002");
        assert_eq!(judged(&[applied(1, 1)]), "not applied: 0002");
        assert_eq!(
            judged(&[applied(1, 1), applied(2, 2), applied(3, 3)]),
            "0003 is unknown to this version of tillwire"
        );
        assert_eq!(judged(&[applied(1, 1), applied(2, 9)]), "0002 is not what was applied");
        assert_eq!(judged(&[applied(1, 1), Applied { success: false, ..applied(2, 2) }]), "0002 failed half-way");
    }
}
