//! The hub as a process: it starts without its database, drains when it is told to stop, says clearly what is wrong with
//! its configuration, keeps its secrets, and loses nothing when it is killed.

use super::support::process::{TillwireProcess, environment};
use super::support::services::postgres::Postgres;
use tillwire::roles;

#[tokio::test]
async fn sigterm_ends_it_with_nothing_left_to_do() {
    let database = Postgres::shared().await.database(async |url| roles::migrate::up(&url).await.unwrap()).await;
    let (env, _) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    assert_eq!(hub.probe("/healthz").await, Some(200));
    hub.terminate();
    assert_eq!(hub.ended().await.code(), Some(0), "{}", hub.log());
    assert!(hub.log().contains("Stopped"), "{}", hub.log());
    assert_eq!(hub.probe("/healthz").await, None);
}
