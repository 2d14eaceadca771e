//! The nodes of RabbitMQ that are named, and whose turn it is.
//!
//! Of a cluster several may be named: when one is away, another has its turn.

use anyhow::{Context, anyhow, ensure};
use futures_util::future::join_all;
use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::{ExposeSecret, SecretString};

use super::link;
use super::urls;
use super::wire::Wire;

/// The broker and we tell each other this often that we are alive, so that it forgets the queue of a node that is gone.
const HEARTBEAT_SECONDS: u16 = 10;

/// The nodes of a cluster, or the only one.
#[derive(Clone, Debug)]
pub struct Nodes(Vec<AMQPUri>);

impl Nodes {
    /// # Errors
    /// If these are no URLs of a RabbitMQ. The message does not repeat them: they hold a password.
    pub fn parse(list: &SecretString) -> anyhow::Result<Self> {
        urls::split(list.expose_secret()).into_iter().map(uri_of).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Whose turn it is. After each failure it is another's.
    pub fn at(&self, turn: usize) -> &AMQPUri {
        &self.0[turn % self.0.len()]
    }

    /// Not always the first, so that the nodes of a fleet spread over those of a cluster.
    pub fn first_turn(&self) -> usize {
        fastrand::usize(..self.0.len())
    }

    /// Comes in at each node and leaves again, to learn what keeps us out. Answers with the nodes that do, as long as one
    /// does not.
    ///
    /// # Errors
    /// If none lets us in.
    pub async fn greet(&self) -> anyhow::Result<Vec<anyhow::Error>> {
        let answers = join_all(self.0.iter().map(async |uri| {
            let wire = link::answered(Wire::dial(uri, "tillwire: checking")).await.with_context(|| place(uri))?;
            wire.close().await;
            anyhow::Ok(())
        }))
        .await;
        let mut failures: Vec<anyhow::Error> = answers.into_iter().filter_map(Result::err).collect();
        if failures.len() < self.0.len() { Ok(failures) } else { Err(failures.swap_remove(0)) }
    }
}

impl Nodes {
    /// Comes in at the first node that lets us in, beginning with one by chance.
    ///
    /// # Errors
    /// If none does: why the last one did not.
    pub async fn come_in(&self, name: &str) -> anyhow::Result<Wire> {
        let first = self.first_turn();
        let mut failure = anyhow!("no node is named");
        for turn in first..first + self.0.len() {
            let uri = self.at(turn);
            match link::answered(Wire::dial(uri, name)).await.with_context(|| place(uri)) {
                Ok(wire) => return Ok(wire),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Where a node is, without its password.
pub fn place(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

/// # Errors
/// If it is no URL of a RabbitMQ. The message does not repeat it: it holds a password.
fn uri_of(url: &str) -> anyhow::Result<AMQPUri> {
    let mut uri: AMQPUri =
        url.parse().map_err(|_| anyhow!("the URL of RabbitMQ must look like amqp://user:password@host:5672/vhost"))?;
    ensure!(!uri.authority.host.contains(','), "each node of RabbitMQ is named by a whole URL of its own");
    ensure!(uri.scheme == AMQPScheme::AMQP, "amqps:// is not supported yet: let a proxy beside the hub speak TLS");
    let host = url.rsplit(['@', '/']).find(|part| part.starts_with('['));
    ensure!(host.is_none(), "RabbitMQ's host must have a name or an IPv4 address"); // lapin would take it for localhost.
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned(); // Who ends the URL with a slash means the default one, not the one without a name.
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_refused_without_being_repeated() {
        let wrong = ["amqp//hub:geheim@host", "http://hub:geheim@host", "amqps://hub:geheim@host", "geheim", ""];
        let lists = ["amqp://hub:geheim@a,http://hub:geheim@b", "amqp://hub:geheim@a,"];
        for url in wrong.into_iter().chain(lists).chain(["amqp://hub:geheim@[::1]:5672/shop", "amqp://[::1]"]) {
            let Err(error) = Nodes::parse(&SecretString::from(url)) else { panic!("{url} was taken") };
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
        assert_eq!(Nodes::parse(&SecretString::from("amqp://hub:geheim@host/")).unwrap().at(0).vhost, "/");
    }

    #[test]
    fn nodes_are_named_one_by_one_and_take_turns() {
        let list = SecretString::from("amqp://hub:ge,heim@a/shop,amqp://hub:ge,heim@b:5673/shop");
        let nodes = Nodes::parse(&list).unwrap();
        let places = [0, 1, 2, usize::MAX].map(|turn| place(nodes.at(turn)));
        assert_eq!(places, ["a:5672", "b:5673", "a:5672", "b:5673"]);
        assert!(nodes.0.iter().all(|uri| uri.vhost == "shop"));
    }
}
