//! The brokers that are configured: they let us in, and what we publish comes back.

use std::time::Duration;

use super::{Finding, within};
use crate::bus::{Brokers, check};

pub async fn check(brokers: &Brokers) -> Vec<Finding> {
    let redis = async { Ok(judge("redis", check::redis(brokers).await?)) };
    let rabbitmq = async { Ok(judge("rabbitmq", check::rabbitmq(brokers).await?)) };
    let cure =
        |flag: &str| format!("Is it running, and does it let us in? {flag} says where. Nodes serve on without it");
    let (redis_cure, rabbitmq_cure) = (cure("--redis-url"), cure("--amqp-url"));
    let (redis, rabbitmq) =
        tokio::join!(within("redis", &redis_cure, redis), within("rabbitmq", &rabbitmq_cure, rabbitmq));
    let mut findings = vec![redis, rabbitmq];
    if brokers.redis_url.is_none() && brokers.amqp_url.is_none() {
        findings = vec![Finding::good("buses", "none: right for one node, which tells itself")];
    }
    findings
}

fn judge(check: &'static str, took: Option<Duration>) -> Finding {
    match took {
        Some(took) => Finding::good(check, format!("an entry came back, {} ms after dialling", took.as_millis())),
        None => Finding::good(check, "not used"),
    }
}
