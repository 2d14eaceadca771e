//! The dashboard and the alerts show what nodes tell, all of it, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::operating::{explained, words};

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

/// The metrics that a query names. A histogram's series are named after it.
fn named(query: &str) -> BTreeSet<String> {
    let known = explained();
    let metric = |word: String| {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        of_histogram.filter(|metric| known.contains(*metric)).map_or(word.clone(), str::to_owned)
    };
    ["tillwire_", "process_"].iter().flat_map(|beginning| words(query, beginning)).map(metric).collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/tillwire.json")).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let variable = |name: &str| variables.iter().find(|it| it["name"] == name).expect(name);
    assert_eq!(
        (&variable("datasource")["type"], &variable("datasource")["query"]),
        (&"datasource".into(), &"prometheus".into())
    );
    assert!(named(variable("instance")["definition"].as_str().unwrap()).is_subset(&explained()));

    let (mut shown, mut ids, mut rows) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut taken: Vec<[u64; 4]> = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title} has another's id");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|it| panel["gridPos"][it].as_u64().expect("a place"));
        let overlaps = |other: &[u64; 4]| {
            let [ox, oy, ow, oh] = *other;
            x < ox + ow && ox < x + w && y < oy + oh && oy < y + h
        };
        assert!(x + w <= 24 && !taken.iter().any(overlaps), "{title} lies over another");
        taken.push([x, y, w, h]);
        if panel["type"] == "row" {
            rows.push(title.to_owned());
            continue;
        }
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{title} is empty");
        for target in targets.iter().chain([panel]) {
            assert_eq!(
                target["datasource"]["uid"], "${datasource}",
                "{title} asks another Prometheus than the chosen one"
            );
        }
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            let metrics = named(query);
            assert!(!metrics.is_empty() && query.contains("instance=~\"$instance\""), "{title}: {query}");
            shown.extend(metrics);
        }
    }
    assert_eq!(shown, explained());
    // Its rows are the page's sections, in their order.
    let page = read("docs/metrics.md");
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).skip(1).collect();
    assert_eq!(rows, sections);
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    page: String,
}

#[test]
fn each_alert_watches_what_there_is_and_is_named_beside_it() {
    let rules: Rules = serde_saphyr::from_str(&read("deploy/prometheus/alerts.yml")).expect("YAML");
    let page = read("docs/metrics.md");
    let mut alerts = BTreeSet::new();
    for rule in rules.groups.iter().flat_map(|group| &group.rules) {
        let Rule { alert, expr, labels, annotations } = rule;
        assert!(alerts.insert(alert.clone()), "{alert} is there twice");
        assert!(["critical", "warning"].contains(&labels.severity.as_str()) && !annotations.summary.is_empty());
        let metrics = named(expr);
        assert!(metrics.is_subset(&explained()), "{alert} watches {metrics:?}");
        let (file, section) = annotations.page.split_once('#').expect("a section");
        assert_eq!(file, "docs/metrics.md");
        // In the line of a metric that it watches, of the section that it points to.
        let section = page.split("\n## ").find(|it| it.to_lowercase().starts_with(&format!("{section}\n")));
        let lines = section.unwrap_or_else(|| panic!("{alert} points to {}", annotations.page)).lines();
        let is_told =
            |line: &str| metrics.is_empty() || metrics.iter().any(|it| line.starts_with(&format!("| `{it}`")));
        assert!(lines.into_iter().any(|line| line.contains(&format!("**{alert}**")) && is_told(line)), "{alert}");
    }
    let told: BTreeSet<String> = page.split("**").filter(|it| it.starts_with("Tillwire")).map(str::to_owned).collect();
    assert_eq!(told, alerts);
}
