//! `tillwire jobs`: how jobs stand, and one of them out of turn.

use anyhow::ensure;
use secrecy::ExposeSecret;
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc3339;

use crate::config::{Jobs, JobsCommand};
use crate::jobs::{self, Known};
use crate::journal::pool;

pub async fn run(config: Jobs) -> anyhow::Result<()> {
    let pool = pool::open(config.database_url.expose_secret(), 1)?;
    match config.what {
        JobsCommand::List => {
            for job in jobs::all(&pool).await? {
                println!("{}", line(&job)?);
            }
        }
        JobsCommand::Run { job } => {
            ensure!(jobs::ask_for(&pool, &job).await?, "there is no job {job}, or it is being done just now");
            println!("{job} is due now; whichever node is free does it.");
        }
    }
    Ok(())
}

/// A job in a line: `screens  every 1 h, next 2026-11-30T11:07:00Z; done 2026-11-30T10:07:02Z in 12 ms`.
fn line(job: &Known) -> anyhow::Result<String> {
    let mut line = format!("{:<18}{}, next {}", job.job, job.schedule, second(job.next_at)?);
    if let (Some(outcome), Some(ended_at), Some(took_ms)) = (&job.outcome, job.ended_at, job.took_ms) {
        line += &format!("; {outcome} {} in {took_ms} ms", second(ended_at)?);
    }
    if let Some(error) = &job.error {
        line += &format!(" ({error})");
    }
    if job.attempts > 0 {
        line += &format!("; attempt {}", job.attempts);
    }
    if let Some(held_by) = &job.held_by {
        line += &format!("; held by {held_by}");
    }
    Ok(line)
}

fn second(moment: Moment) -> anyhow::Result<String> {
    Ok(moment.replace_nanosecond(0)?.to_offset(time::UtcOffset::UTC).format(&Rfc3339)?)
}
