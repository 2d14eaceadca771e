//! The results as a table for people who read Markdown: medians of all runs.

use std::fmt::Write as _;

use super::{Measured, Report};

/// A column: of which scenario, its head, the figure, and how many decimals it is shown with.
struct Column {
    scenario: &'static str,
    head: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    decimals: usize,
}

const fn column(
    scenario: &'static str,
    head: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    decimals: usize,
) -> Column {
    Column { scenario, head, figure, decimals }
}

const COLUMNS: [Column; 20] = [
    column("fanout", "messages/s", |it| Some(it.messages_per_s), 0),
    column("fanout", "µs CPU a message", |it| it.server_cpu_us_per_message, 2),
    column("fanout", "p99 ms", p99, 1),
    column("paced", "µs CPU a message", |it| it.server_cpu_us_per_message, 1),
    column("paced", "p99 ms", p99, 1),
    column("idle", "bytes a screen", |it| Some(it.rss_bytes_per_screen), 0),
    column("churn", "p99 ms", p99, 1),
    column("churn", "lost", |it| Some(it.lost as f64), 0),
    column("slow-readers", "p99 ms of the others", p99, 1),
    column("slow-readers", "cut", |it| Some(it.cut as f64), 0),
    column("resume-storm", "s until all are caught up", |it| it.more.get("caught_up_s")?.as_f64(), 1),
    column("sale-to-screen", "p50 ms", |it| Some(it.latency_us.p50 as f64 / 1_000.0), 1),
    column("sale-to-screen", "p99 ms", p99, 1),
    column("sales", "sales/s", |it| Some(it.messages_per_s), 0),
    column("sales", "p99 ms", p99, 1),
    column("relay", "entries/s", |it| Some(it.messages_per_s), 0),
    column("relay", "p50 ms", |it| Some(it.latency_us.p50 as f64 / 1_000.0), 1),
    column("relay", "p99 ms", p99, 1),
    column("webhook-to-screen", "p50 ms", |it| Some(it.latency_us.p50 as f64 / 1_000.0), 1),
    column("webhook-to-screen", "p99 ms", p99, 1),
];

fn p99(it: &Measured) -> Option<f64> {
    Some(it.latency_us.p99 as f64 / 1_000.0)
}

impl Report {
    /// The scenarios that were measured, in order.
    pub(super) fn scenarios(&self) -> Vec<&str> {
        distinct(self.results.iter().map(|it| &*it.scenario))
    }

    /// The subjects that were measured, in order.
    pub(super) fn subjects(&self) -> Vec<&str> {
        distinct(self.results.iter().map(|it| &*it.subject))
    }

    /// The median over all runs, if there was one that has this figure.
    pub(super) fn median(&self, scenario: &str, subject: &str, figure: fn(&Measured) -> Option<f64>) -> Option<f64> {
        let runs = self.results.iter().filter(|it| it.scenario == scenario && it.subject == subject);
        let mut values: Vec<f64> = runs.filter_map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            even if even.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
            _ => Some(values[middle]),
        }
    }

    /// A row for each subject.
    pub fn table(&self) -> String {
        let measured = self.scenarios();
        let columns: Vec<&Column> = COLUMNS.iter().filter(|it| measured.contains(&it.scenario)).collect();
        let heads: String = columns.iter().map(|it| format!(" {}: {} |", it.scenario, it.head)).collect();
        let mut table = format!("| |{heads}\n|---|{}\n", "---:|".repeat(columns.len()));
        for subject in self.subjects() {
            let cells: String = columns
                .iter()
                .map(|it| match self.median(it.scenario, subject, it.figure) {
                    Some(value) => format!(" {value:.*} |", it.decimals),
                    None => " |".to_owned(),
                })
                .collect();
            // It cannot fail: a string takes everything.
            let _ = writeln!(table, "| `{subject}` |{cells}");
        }
        table
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}
