//! What nodes count, as Prometheus reads it.

/// The sum of a metric's series that have all these labels; none of them is nothing.
pub fn sum(told: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let series = told.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
    });
    series.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
}

#[test]
fn series_are_summed_by_name_and_labels() {
    let told =
        "# HELP heard_total\nheard_total{bus=\"redis\",x=\"1\"} 2\nheard_total{bus=\"redis\"} 3\nheard_totals 9\nup 1";
    assert_eq!(sum(told, "heard_total", &[("bus", "redis")]), 5.0);
    assert_eq!(sum(told, "heard_total", &[("bus", "rabbitmq")]), 0.0);
    assert_eq!((sum(told, "up", &[]), sum(told, "down", &[])), (1.0, 0.0));
}
