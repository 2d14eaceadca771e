//! pgbench as the floor of a sale: the statements that the hub sends for one, without the hub.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tillwire::embedded::Postgres;
use tokio::process::Command;

use super::tillwire::DATABASE;
use crate::client::crew::Outcome;
use crate::run::Run;

const SALE: &str = include_str!("../../peers/pgbench/sale.sql");
const TILLS: &str = include_str!("../../peers/pgbench/tills.sql");
/// What a client begins with: `:is_new` until it has looked up its till.
const VARIABLES: [&str; 4] = ["is_new=1", "brings_number=f", "discount=0", "reason=sale"];

/// Repeats at so many tills, of a database where each has sold, one of its sales.
pub async fn sell(run: &Run, cluster: &Postgres, tills: usize, length: Duration, outcome: &mut Outcome) -> Result<()> {
    cluster.psql(DATABASE, TILLS).await.context("looking up the tills for pgbench")?;
    let dir = run.folder("pgbench")?;
    let script = dir.join("sale.sql");
    std::fs::write(&script, SALE)?;
    let mut pgbench = Command::new("pgbench");
    pgbench.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(&dir);
    pgbench.args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix=sold", "--jobs=1"]);
    pgbench.args(VARIABLES.map(|it| format!("--define={it}")));
    pgbench.arg(format!("--client={tills}")).arg(format!("--time={}", length.as_secs()));
    pgbench.arg("--file").arg(&script).arg(cluster.url("tillwire_app", DATABASE));
    let output = pgbench.output().await.context("starting pgbench, which comes with PostgreSQL")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    take_log(&dir, outcome)
}

/// A line for each transaction: client, number, microseconds and more.
fn take_log(dir: &Path, outcome: &mut Outcome) -> Result<()> {
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"sold.")) {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let took = line.split(' ').nth(2).and_then(|it| it.parse::<u64>().ok());
            outcome.latency.record(took.with_context(|| format!("pgbench's log says {line}"))?.max(1))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statements as they are compared: parameters without their names, columns without sqlx's marks, one space.
    fn bare(sql: &str) -> String {
        let mut bare = String::new();
        let mut rest = sql.chars().peekable();
        let mut before = ' ';
        while let Some(letter) = rest.next() {
            let next = rest.peek().copied().unwrap_or(' ');
            let is_parameter = match letter {
                '$' => next.is_ascii_digit(),
                ':' => before != ':' && next.is_ascii_lowercase(),
                _ => false,
            };
            if is_parameter {
                while rest.next_if(|it| it.is_ascii_alphanumeric() || *it == '_').is_some() {}
                bare.push('?');
            } else if !matches!(letter, '"' | '!') {
                bare.push(letter);
            }
            before = letter;
        }
        bare.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn it_runs_what_the_hub_runs() {
        let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.sqlx");
        let known: Vec<String> = std::fs::read_dir(queries)
            .unwrap()
            .map(|file| {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                let query: serde_json::Value = serde_json::from_str(&text).unwrap();
                bare(query["query"].as_str().unwrap())
            })
            .collect();
        let transaction = SALE.split_once("begin;").unwrap().1;
        let lines = transaction.lines().filter(|line| !line.trim_start().starts_with("--"));
        let text: String = lines.map(|line| format!("{line}\n")).collect::<String>().replace("\\gset", ";");
        let statements: Vec<String> = text.split(';').map(bare).filter(|it| !it.is_empty()).collect();
        assert_eq!((statements.len(), statements.last().map(String::as_str)), (12, Some("commit")));
        for statement in &statements[..11] {
            assert!(known.iter().any(|it| statement.starts_with(it)), "the hub does not send: {statement}");
        }
    }
}
