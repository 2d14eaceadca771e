//! `tillwire doctor`: checks everything that the configuration names, says what is wrong, and what to do about it.
//!
//! It changes nothing, needs no right that a node does not have, and prints no secret. Every check has a deadline.

mod brokers;
mod database;
mod machine;
mod vault;

use std::fmt;
use std::io::Write;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use crate::config::Doctor;

/// How long one check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);

pub async fn run(config: Doctor) -> anyhow::Result<()> {
    let buses = config.node.buses.into();
    let (mut findings, brokers, vault, ports, node_address) = tokio::join!(
        database::check(&config.node.database, config.migrate_database_url.as_ref()),
        brokers::check(&buses),
        within(
            "vault",
            "Does the database answer, and is it migrated?",
            vault::check(config.node.vault, &config.node.database.database_url)
        ),
        machine::ports(&config.node.listen),
        machine::node_address(&config.node.listen, &config.node.database)
    );
    findings.extend(brokers);
    findings.push(machine::token_keys(config.node.tokens));
    findings.push(machine::push(config.node.push));
    findings.push(vault);
    findings.extend(ports);
    findings.push(node_address);
    findings.push(machine::descriptors(&config.node.database));
    let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    let report = if config.json { as_json(&findings)? } else { as_lines(&findings) };
    // Whoever has closed the other end has read enough.
    let _ = std::io::stdout().write_all(report.as_bytes());
    ensure!(wrong == 0, "{wrong} of {} checks found something wrong", findings.len());
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    /// A node can serve, but somebody should look at it.
    Warning,
    Wrong,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        })
    }
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Finding {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, detail: detail.into(), cure: None }
    }

    fn warning(check: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, detail: detail.into(), cure: Some(cure.into()) }
    }

    fn wrong(check: &'static str, detail: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Wrong, detail: detail.into(), cure: Some(cure.into()) }
    }
}

/// Runs a check within its deadline; `cure` is for what keeps it from finding anything.
async fn within(check: &'static str, cure: &str, work: impl Future<Output = anyhow::Result<Finding>>) -> Finding {
    match tokio::time::timeout(CHECK_MAX, work).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::wrong(check, format!("{error:#}"), cure),
        Err(_) => Finding::wrong(check, format!("no answer within {CHECK_MAX:?}"), cure),
    }
}

fn as_lines(findings: &[Finding]) -> String {
    let line = |Finding { check, verdict, detail, cure }: &Finding| {
        // A server's message may have lines of its own.
        let detail = detail.replace('\n', " ");
        let cure = cure.as_ref().map(|cure| format!(". {cure}")).unwrap_or_default();
        format!("{verdict:<8} {check:<15} {detail}{cure}\n")
    };
    findings.iter().map(line).collect()
}

fn as_json(findings: &[Finding]) -> serde_json::Result<String> {
    let good = findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
    let report = serde_json::json!({ "good": good, "checks": findings });
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}
