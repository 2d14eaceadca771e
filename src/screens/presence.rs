//! Presence: who is at an outlet, as each gateway says of its own screens. A gateway that does not say for a while that it
//! lives does not count, by the database's clock and nobody else's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::wire::Present;
use tillwire_channels::{MerchantId, Moment, OutletId, RegisterId, Role, StaffId};
use uuid::Uuid;

use crate::error::Result;
use crate::journal::{Pools, pool};

/// For how long a gateway counts that has said that it lives.
const LIVES_FOR: Duration = Duration::from_secs(10);
/// How many people one gateway names at one outlet. Of those who came later it only says how many they are.
pub const PEOPLE_MAX: usize = 200;

/// Stands for the outlet of people who are bound to none: they have a screen, and are present nowhere.
pub const EVERYWHERE: OutletId = OutletId(Uuid::nil());

/// Somebody at a register, or at none, by the screens of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub staff: StaffId,
    pub register: Option<RegisterId>,
    pub role: Role,
    /// When the first of the screens came that are there now.
    #[serde(with = "time::serde::timestamp")]
    pub since: Moment,
    pub screens: u32,
}

/// Who is at an outlet, by the screens of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    pub people: Vec<Person>,
    /// How many more there are.
    pub more: u32,
}

/// What has become of an outlet by the screens of one gateway: nobody is there, or these are.
pub type Change = (OutletId, Option<String>);

/// What a gateway has written, as far as whoever watches needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: Uuid,
    /// Counts its changes.
    pub changes: i64,
}

/// Says that a gateway lives. Answers whether it was known before, and the database's time.
pub async fn beat(pools: &Pools, node: Uuid) -> Result<(bool, Moment)> {
    let now = sqlx::query_scalar!(
        "update gateway_nodes set beat_at = clock_timestamp() where node_id = $1 returning beat_at",
        node
    )
    .fetch_optional(&pools.app)
    .await?;
    if let Some(now) = now {
        return Ok((true, now));
    }
    let now = sqlx::query_scalar!(
        "insert into gateway_nodes (node_id) values ($1)
         on conflict (node_id) do update set beat_at = clock_timestamp() returning beat_at",
        node
    )
    .fetch_one(&pools.app)
    .await?;
    Ok((false, now))
}

/// Takes a gateway away, with all that it has written.
pub async fn retire(pools: &Pools, node: Uuid) -> Result<()> {
    sqlx::query!("delete from gateway_nodes where node_id = $1", node).execute(&pools.app).await?;
    Ok(())
}

/// The gateways that live.
pub async fn nodes(pools: &Pools) -> Result<Vec<Node>> {
    let rows = sqlx::query!(
        "select node_id, changes from gateway_nodes where beat_at > now() - make_interval(secs => $1) order by node_id",
        LIVES_FOR.as_secs_f64()
    )
    .fetch_all(&pools.app)
    .await?;
    Ok(rows.into_iter().map(|row| Node { id: row.node_id, changes: row.changes }).collect())
}

/// Writes what has become of outlets of a merchant by a gateway's screens.
///
/// # Errors
/// Also if the gateway is not known (any more): it says that it lives, and then all of it anew.
pub async fn write(pools: &Pools, merchant: MerchantId, node: Uuid, changes: &[Change]) -> Result<()> {
    let gone: Vec<Uuid> = changes.iter().filter(|(_, people)| people.is_none()).map(|(outlet, _)| outlet.0).collect();
    let (outlets, people): (Vec<Uuid>, Vec<String>) =
        changes.iter().filter_map(|(outlet, people)| Some((outlet.0, people.clone()?))).unzip();
    let mut sql = pool::begin_of(&pools.app, merchant).await?;
    sqlx::query!(
        "delete from presence where merchant_id = $1 and node_id = $2 and outlet_id = any($3)",
        merchant.0,
        node,
        &gone,
    )
    .execute(&mut *sql)
    .await?;
    sqlx::query!(
        "insert into presence (merchant_id, outlet_id, node_id, people)
         select $1, outlet_id, $2, people from unnest($3::uuid[], $4::text[]) as here (outlet_id, people)
         on conflict (merchant_id, outlet_id, node_id) do update set people = excluded.people",
        merchant.0,
        node,
        &outlets,
        &people,
    )
    .execute(&mut *sql)
    .await?;
    sqlx::query!(
        "update gateway_nodes set changes = changes + 1, beat_at = clock_timestamp() where node_id = $1",
        node
    )
    .execute(&mut *sql)
    .await?;
    Ok(sql.commit().await?)
}

/// The outlets of registers, as far as they are the merchant's.
pub async fn outlets_of(
    pools: &Pools,
    merchant: MerchantId,
    registers: &[RegisterId],
) -> Result<Vec<(RegisterId, OutletId)>> {
    let ids: Vec<Uuid> = registers.iter().map(|id| id.0).collect();
    let mut sql = pool::begin_of(&pools.app, merchant).await?;
    let rows = sqlx::query!(
        "select register_id, outlet_id from registers where merchant_id = $1 and register_id = any($2)",
        merchant.0,
        &ids,
    )
    .fetch_all(&mut *sql)
    .await?;
    Ok(rows.into_iter().map(|row| (RegisterId(row.register_id), OutletId(row.outlet_id))).collect())
}

/// What the gateways that live say of an outlet, or of all of them: to be compared, and to be [read](merged).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(Vec<(OutletId, String)>);

/// What is said of an outlet, or of all of a merchant's.
pub async fn said(sql: &mut PgConnection, merchant: MerchantId, outlet: Option<OutletId>) -> Result<Said> {
    let rows = sqlx::query!(
        "select outlet_id, people from presence join gateway_nodes using (node_id)
         where merchant_id = $1 and ($2::uuid is null or outlet_id = $2) and outlet_id <> $4
           and beat_at > now() - make_interval(secs => $3)
         order by outlet_id, node_id",
        merchant.0,
        outlet.map(|outlet| outlet.0),
        LIVES_FOR.as_secs_f64(),
        EVERYWHERE.0,
    )
    .fetch_all(sql)
    .await?;
    Ok(Said(rows.into_iter().map(|row| (OutletId(row.outlet_id), row.people)).collect()))
}

/// Who is there, by name as far as names are known, the longest there first: at most so many of them, and how many more.
pub async fn named(
    sql: &mut PgConnection,
    merchant: MerchantId,
    said: &Said,
    max: usize,
) -> Result<(Vec<Present>, u32)> {
    let (people, more) = merged(said, max);
    let staff: Vec<Uuid> = people.iter().map(|(_, person)| person.staff.0).collect();
    let registers: Vec<Uuid> = people.iter().filter_map(|(_, person)| person.register).map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select staff_id as "id!", name as "name!" from staff where merchant_id = $1 and staff_id = any($2)
           union all
           select register_id, name from registers where merchant_id = $1 and register_id = any($3)"#,
        merchant.0,
        &staff,
        &registers,
    )
    .fetch_all(sql)
    .await?;
    let names: BTreeMap<Uuid, String> = rows.into_iter().map(|row| (row.id, row.name)).collect();
    let present = people.into_iter().map(|(outlet, person)| Present {
        outlet,
        register: person.register,
        register_name: person.register.and_then(|register| names.get(&register.0).cloned()),
        staff: person.staff,
        staff_name: names.get(&person.staff.0).cloned(),
        role: person.role,
        since: person.since,
        screens: person.screens,
    });
    Ok((present.collect(), more))
}

/// Who has a screen just now that is at an outlet, or is bound to none ([`EVERYWHERE`]): of those who are named. Without an
/// outlet, who has one at all.
pub async fn watching(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: Option<OutletId>,
) -> Result<Vec<(OutletId, Person)>> {
    let rows = sqlx::query!(
        "select outlet_id, people from presence join gateway_nodes using (node_id)
         where merchant_id = $1 and ($2::uuid is null or outlet_id in ($2, $4))
           and beat_at > now() - make_interval(secs => $3)",
        merchant.0,
        outlet.map(|outlet| outlet.0),
        LIVES_FOR.as_secs_f64(),
        EVERYWHERE.0,
    )
    .fetch_all(sql)
    .await?;
    // What a gateway of a later version writes may not be readable here: then nobody is known to watch.
    let here = |text: &str| serde_json::from_str::<Here>(text).map_or(Vec::new(), |here| here.people);
    let those =
        rows.iter().flat_map(|row| here(&row.people).into_iter().map(|person| (OutletId(row.outlet_id), person)));
    Ok(those.collect())
}

/// The same people on several gateways are one: since the earliest, on all their screens.
fn merged(said: &Said, max: usize) -> (Vec<(OutletId, Person)>, u32) {
    let (mut together, mut more) = (BTreeMap::<_, Person>::new(), 0_u32);
    for (outlet, text) in &said.0 {
        // What a gateway of a later version writes may not be readable here; somebody is there all the same.
        let here = serde_json::from_str(text).unwrap_or(Here { people: Vec::new(), more: 1 });
        more = more.saturating_add(here.more);
        for person in here.people {
            together
                .entry((*outlet, person.register, person.staff))
                .and_modify(|known| {
                    known.since = known.since.min(person.since);
                    known.screens = known.screens.saturating_add(person.screens);
                })
                .or_insert(person);
        }
    }
    let mut people: Vec<(OutletId, Person)> =
        together.into_iter().map(|((outlet, ..), person)| (outlet, person)).collect();
    people.sort_by_key(|(_, person)| person.since); // Stable: those of the same moment stay in the order of their ids.
    let cut = people.split_off(people.len().min(max));
    (people, more.saturating_add(u32::try_from(cut.len()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(outlet: OutletId, people: &[Person], more: u32) -> (OutletId, String) {
        (outlet, serde_json::to_string(&Here { people: people.to_vec(), more }).unwrap())
    }

    fn person(since: i64) -> Person {
        let since = Moment::from_unix_timestamp(since).unwrap();
        Person { staff: StaffId::new(), register: Some(RegisterId::new()), role: Role::Cashier, since, screens: 1 }
    }

    #[test]
    fn the_same_person_on_two_gateways_is_there_once() {
        let (outlet, other) = (OutletId::new(), OutletId::new());
        let (budi, ani) = (person(1_790_000_000), person(1_790_000_060));
        let elsewhere = Person { since: ani.since, screens: 2, ..budi };
        let all = Said(vec![said(outlet, &[budi, ani], 0), said(outlet, &[elsewhere], 3), said(other, &[ani], 0)]);
        let (people, more) = merged(&all, 10);
        let found: Vec<_> = people.iter().map(|(at, person)| (*at, person.staff, person.screens)).collect();
        assert_eq!((&found[0], more), (&(outlet, budi.staff, 3), 3));
        assert_eq!(people[0].1.since, budi.since);
        assert!(found[1..].contains(&(outlet, ani.staff, 1)) && found[1..].contains(&(other, ani.staff, 1)));
        let later = r#"{"people": [{"role": "robot"}]}"#.to_owned();
        assert_eq!(merged(&Said(vec![(outlet, later)]), 10), (vec![], 1));
        let (people, more) = merged(&all, 1);
        assert_eq!((people.len(), people[0].1.staff, more), (1, budi.staff, 5));
    }

    #[test]
    fn as_many_people_as_are_named_fit_into_a_row() {
        let person = Person { role: Role::Accountant, screens: u32::MAX, ..person(253_000_000_000) };
        let (_, text) = said(OutletId::new(), &vec![person; PEOPLE_MAX], u32::MAX);
        assert!(text.len() <= 64 * 1024, "{}", text.len());
    }
}
