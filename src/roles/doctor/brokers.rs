//! The brokers that are configured: they let us in, and what we publish comes back.

use super::{Finding, within};
use crate::bus::Brokers;
use crate::bus::check::{self, Carries};

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

fn judge(check: &'static str, carries: Option<Carries>) -> Finding {
    let Some(Carries { took, masters, doubts }) = carries else { return Finding::good(check, "not used") };
    let by = masters.map(|masters| format!(" from each of {masters} masters")).unwrap_or_default();
    let detail = format!("an entry came back{by}, {} ms after dialling", took.as_millis());
    if doubts.is_empty() {
        return Finding::good(check, detail);
    }
    Finding::warning(check, format!("{detail}; but {}", doubts.join("; ")), "Nodes serve on as it is")
}
