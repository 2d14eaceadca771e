//! The results as a page: one file that loads nothing, with a plot for each figure and a table below.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Measured, Report};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}svg{width:100%;height:auto}\
table{border-collapse:collapse;width:100%;font-size:.85rem}td,th{padding:.25rem .5rem;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}.own{fill:#0a7d5a}.peer{fill:#8aa0b4}\
text{font-size:13px;fill:#222}p{color:#555}";
/// The plots' measures, in pixels: a bar and what is around it, where bars begin, and how long the longest is.
const ROW: usize = 26;
const LEFT: usize = 160;
const LONGEST: f64 = 480.0;

type Figure = (&'static str, fn(&Measured) -> Option<f64>);

const PLOTS: [Figure; 5] = [
    ("Messages a second (more is better)", |it| Some(it.messages_per_s)),
    ("Server CPU a message, µs (less is better)", |it| it.server_cpu_us_per_message),
    ("Memory a screen, bytes (less is better)", |it| Some(it.rss_bytes_per_screen)),
    ("Latency p50, µs (less is better)", |it| Some(it.latency_us.p50 as f64)),
    ("Latency p99, µs (less is better)", |it| Some(it.latency_us.p99 as f64)),
];

impl Report {
    pub(super) fn write_html(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.html()?).with_context(|| format!("writing {} (--html)", path.display()))
    }

    fn html(&self) -> Result<String> {
        let scenarios = self.scenarios();
        let title = scenarios.join(", ");
        let (machine, versions) = (&self.machine, &self.versions);
        let mut page = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
             <title>tillwire-loadtest {title}</title><style>{STYLE}</style><h1>{title}</h1>\
             <p>{}, {} cores, {:.0} GiB, Linux {}, {}. Tillwire {} ({}), {}.</p>",
            escaped(&machine.cpu),
            machine.cores,
            machine.memory_bytes as f64 / f64::from(1 << 30),
            escaped(&machine.kernel),
            machine.date,
            versions.tillwire,
            versions.profile,
            escaped(&versions.node.as_ref().map_or("no Node.js".to_owned(), |it| format!("Node.js {it}"))),
        );
        for scenario in scenarios {
            for (title, figure) in PLOTS {
                self.plot(&mut page, scenario, title, figure)?;
            }
        }
        self.all_figures(&mut page)?;
        Ok(page)
    }

    fn plot(&self, page: &mut String, scenario: &str, title: &str, figure: fn(&Measured) -> Option<f64>) -> Result<()> {
        let subjects = self.subjects().into_iter();
        let bars: Vec<(&str, f64)> = subjects.filter_map(|it| Some((it, self.median(scenario, it, figure)?))).collect();
        let longest = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if longest == 0.0 {
            return Ok(()); // Nobody has this figure.
        }
        write!(page, "<h2>{scenario}: {title}</h2><svg viewBox='0 0 760 {}' role=img>", bars.len() * ROW)?;
        for (at, (subject, value)) in bars.into_iter().enumerate() {
            let (y, width) = (at * ROW, value / longest * LONGEST);
            let class = if subject == "tillwire" { "own" } else { "peer" };
            let (text, end) = (y + 17, LEFT as f64 + width + 6.0);
            write!(page, "<text x=0 y={text}>{}</text>", escaped(subject))?;
            write!(page, "<rect class={class} x={LEFT} y={} width={width:.1} height={} />", y + 4, ROW - 8)?;
            write!(page, "<text x={end:.1} y={text}>{}</text>", shown(value))?;
        }
        page.push_str("</svg>");
        Ok(())
    }

    fn all_figures(&self, page: &mut String) -> Result<()> {
        let heads = [
            "subject",
            "scenario",
            "screens",
            "messages",
            "msg/s",
            "µs CPU/msg",
            "B/screen",
            "p50 µs",
            "p99",
            "p99.9",
            "max",
            "lost",
            "repeated",
            "reordered",
        ];
        let heads: String = heads.iter().map(|head| format!("<th>{head}")).collect();
        write!(page, "<h2>All figures</h2><table><tr>{heads}")?;
        for it in &self.results {
            let (latency, cpu) = (it.latency_us, it.server_cpu_us_per_message.map_or("–".to_owned(), shown));
            write!(page, "<tr><td>{}<td>{}<td>{}<td>{}", escaped(&it.subject), it.scenario, it.screens, it.messages)?;
            write!(page, "<td>{}<td>{cpu}<td>{}", shown(it.messages_per_s), shown(it.rss_bytes_per_screen))?;
            write!(page, "<td>{}<td>{}<td>{}<td>{}", latency.p50, latency.p99, latency.p999, latency.max)?;
            write!(page, "<td>{}<td>{}<td>{}", it.lost, it.repeated, it.reordered)?;
        }
        page.push_str("</table></html>\n");
        Ok(())
    }
}

fn shown(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("<b>&"), "&lt;b&gt;&amp;");
    }
}
