//! `docker-compose.yml`, read as Docker Compose reads it as far as we use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Compose {
    pub services: BTreeMap<String, Service>,
    pub configs: BTreeMap<String, Config>,
    pub volumes: BTreeMap<String, Option<serde_json::Value>>,
    pub networks: BTreeMap<String, Option<Network>>,
}

#[derive(Debug, Deserialize)]
pub struct Service {
    pub image: String,
    pub build: Option<Build>,
    pub restart: String,
    pub mem_limit: String,
    pub pids_limit: u32,
    pub stop_grace_period: Option<String>,
    pub healthcheck: Option<Healthcheck>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub ports: Vec<String>,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub configs: Vec<Mount>,
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    pub networks: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Build {
    pub context: String,
    #[serde(default = "dockerfile")]
    pub dockerfile: String,
}

fn dockerfile() -> String {
    "Dockerfile".to_owned()
}

#[derive(Debug, Deserialize)]
pub struct Healthcheck {
    pub test: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Mount {
    pub source: String,
    pub target: String,
}

#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub condition: String,
}

#[derive(Debug, Deserialize)]
pub struct Config {
    pub file: Option<String>,
    pub content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Network {
    #[serde(default)]
    pub internal: bool,
}

/// Where the repository is.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn text() -> String {
    fs::read_to_string(root().join("docker-compose.yml")).expect("docker-compose.yml")
}

impl Compose {
    pub fn read() -> Self {
        serde_saphyr::from_str(&text()).expect("YAML of the form that we use")
    }

    /// The services that run our binary, with the role that each plays.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &str, &Service)> {
        self.services
            .iter()
            .filter(|(_, service)| service.image == "tillwire")
            .map(|(name, service)| (name.as_str(), service.command[0].as_str(), service))
    }
}

impl Service {
    /// The files of the repository that the container sees: where, and which.
    pub fn files(&self) -> BTreeMap<&str, PathBuf> {
        let files = self.volumes.iter().filter(|volume| volume.starts_with("./")).map(|volume| {
            let mut parts = volume.split(':');
            let (source, target) = (parts.next().expect("a source"), parts.next().expect("a target"));
            assert_eq!(parts.next(), Some("ro"), "{volume} could be written to");
            (target, root().join(source))
        });
        files.collect()
    }

    /// The volumes that it keeps data in.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter(|volume| !volume.starts_with("./")).filter_map(|volume| volume.split(':').next())
    }
}

/// A place where a variable stands.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable<'a> {
    pub name: &'a str,
    /// What stands for one that is missing or empty; none where that is an error.
    pub default: Option<&'a str>,
}

/// Every place where a variable stands: `${NAME:?why}` or `${NAME:-default}`, the two forms that we use.
pub fn variables(text: &str) -> BTreeSet<Variable<'_>> {
    places(text).into_iter().map(|(_, variable)| variable).collect()
}

/// The text with its variables filled in.
pub fn fill_in(text: &str, values: &BTreeMap<&str, String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), 0);
    for (range, Variable { name, default }) in places(text) {
        let value = values.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(default);
        filled += &text[rest..range.start];
        filled += value.ok_or_else(|| format!("{name} is missing"))?;
        rest = range.end;
    }
    Ok(filled + &text[rest..])
}

fn places(text: &str) -> Vec<(std::ops::Range<usize>, Variable<'_>)> {
    let mut places = Vec::new();
    for (at, _) in text.match_indices('$') {
        let inside = text[at..].strip_prefix("${").and_then(|rest| rest.split_once('}'));
        let (inside, _) = inside.unwrap_or_else(|| panic!("neither form of a variable: {:.20}", &text[at..]));
        let end = at + inside.len() + 3;
        let variable = match inside.split_once(':').map(|(name, rest)| (name, rest.split_at(1))) {
            Some((name, ("?", why))) if !why.is_empty() => Variable { name, default: None },
            Some((name, ("-", default))) => Variable { name, default: Some(default) },
            _ => panic!("neither form of a variable: ${{{inside}}}"),
        };
        places.push((at..end, variable));
    }
    places
}

/// `.env.example`: every name, with the value that it stands with there.
pub fn example() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(".env.example")).expect(".env.example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("no NAME=value: {line}")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn variables_are_filled_in_as_compose_does() {
    let values = BTreeMap::from([("A", "1".to_owned()), ("EMPTY", String::new())]);
    assert_eq!(fill_in("x${A:?why}y${B:-2}${EMPTY:-3}z", &values).as_deref(), Ok("x1y23z"));
    assert_eq!(fill_in("${B:?why}", &values), Err("B is missing".to_owned()));
    assert_eq!(fill_in("${EMPTY:?why}", &values), Err("EMPTY is missing".to_owned()));
}
