//! What can be said of the files without starting anything: every path, port and variable in them leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use tillwire::config::Config;
use tillwire::node::STOP_MAX;

use crate::support::compose::{Compose, Service, example, fill_in, root, text, variables};

/// What a program of ours listens on is in its environment; what others listen on is in a file of theirs.
fn listens_on(name: &str, service: &Service) -> BTreeSet<u16> {
    let port_of = |address: &str| address.rsplit(':').next().and_then(|port| port.parse().ok());
    if service.image == "tillwire" {
        let addresses = ["TILLWIRE_LISTEN", "TILLWIRE_METRICS_LISTEN"];
        return addresses.iter().filter_map(|it| service.environment.get(*it)).filter_map(|it| port_of(it)).collect();
    }
    let (file, setting) = match name {
        "postgres" => ("/etc/postgresql/postgresql.conf", "port ="),
        "pgbouncer" => ("/etc/pgbouncer/pgbouncer.ini", "listen_port ="),
        "redis" => ("/usr/local/etc/redis/redis.conf", "port "),
        "rabbitmq" => ("/etc/rabbitmq/rabbitmq.conf", "listeners.tcp.default ="),
        "haproxy" => ("/usr/local/etc/haproxy/haproxy.cfg", "bind "),
        _ => return BTreeSet::new(),
    };
    let text = read(&service.files()[file]);
    let values = text.lines().filter_map(|line| line.trim().strip_prefix(setting));
    values.filter_map(|value| port_of(value.trim().trim_end_matches(['"', '}']))).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `service:port` that a text names.
fn peers<'a>(compose: &'a Compose, text: &str) -> Vec<(&'a str, u16)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(':') {
        let name = text[..at].rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next().unwrap_or_default();
        let port = text[at + 1..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        // HAProxy writes `${API_1-api:8080}`.
        let name = compose.services.keys().filter(|service| name.ends_with(service.as_str())).max_by_key(|it| it.len());
        if let (Some(name), Ok(port)) = (name, port.parse()) {
            found.push((name.as_str(), port));
        }
    }
    found
}

#[test]
fn every_path_leads_to_a_file() {
    let compose = Compose::read();
    for (name, service) in &compose.services {
        for (target, file) in service.files() {
            assert!(file.is_file(), "{name} mounts {} at {target}", file.display());
        }
        for volume in service.kept() {
            assert!(compose.volumes.contains_key(volume), "{name} keeps data in {volume}, which is not declared");
        }
        for mount in &service.configs {
            let config = compose.configs.get(&mount.source);
            let config = config.unwrap_or_else(|| panic!("{name} mounts {}, which is not declared", mount.source));
            assert!(config.file.is_some() != config.content.is_some(), "{}", mount.source);
        }
        for network in &service.networks {
            assert!(compose.networks.contains_key(network), "{name} is in {network}, which is not declared");
        }
        if let Some(build) = &service.build {
            let context = root().join(&build.context);
            assert!(context.join(&build.dockerfile).is_file(), "{name} is built from {}", build.dockerfile);
        }
    }
}

#[test]
fn files_name_files_that_their_container_has() {
    let compose = Compose::read();
    let mut named = 0;
    for (name, service) in &compose.services {
        let files = service.files();
        let has = |path: &str| {
            let inside = |target: &str| target == path || target.starts_with(&format!("{path}/"));
            files.keys().copied().chain(service.configs.iter().map(|mount| mount.target.as_str())).any(inside)
        };
        let words = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';', '-']));
            let words = lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || "='\",".contains(c)));
            words
                .filter(|word| word.starts_with("/etc/") || word.starts_with("/usr/local/etc/"))
                .map(Into::into)
                .collect()
        };
        let texts = files.values().map(|file| read(file));
        let texts = texts.chain(service.command.iter().cloned()).chain(service.environment.values().cloned());
        for path in texts.flat_map(|text| words(&text)) {
            named += 1;
            assert!(has(&path), "{name} names {path}, which its container does not have");
        }
    }
    // Four files name another, two commands and three nodes' environments theirs: this test looks at something.
    assert!(named >= 8, "{named}");
}

#[test]
fn every_address_is_one_that_a_service_listens_on() {
    let compose = Compose::read();
    let mut asked = BTreeSet::new();
    for (name, service) in &compose.services {
        let files: Vec<String> = service.files().values().map(|file| read(file)).collect();
        let texts = service.environment.values().chain(&files).map(String::as_str);
        for (peer, port) in texts.flat_map(|text| peers(&compose, text)) {
            asked.insert(peer);
            let there = &compose.services[peer];
            assert!(listens_on(peer, there).contains(&port), "{name} asks {peer} on {port}");
            let shared = service.networks.iter().any(|network| there.networks.contains(network));
            assert!(shared || name == peer, "{name} cannot reach {peer}: they are in no network together");
        }
    }
    let pgbouncer = read(&compose.services["pgbouncer"].files()["/etc/pgbouncer/pgbouncer.ini"]);
    for line in pgbouncer.lines().filter(|line| line.contains("host=")) {
        let of = |key: &str| line.split(key).nth(1).and_then(|rest| rest.split(' ').next()).expect("a value");
        assert!(listens_on(of("host="), &compose.services[of("host=")]).contains(&of("port=").parse().unwrap()));
        asked.insert("postgres");
    }
    let all = ["api", "gateway-1", "gateway-2", "pgbouncer", "postgres", "rabbitmq", "redis"];
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), all, "a service that nobody asks");
}

#[test]
fn only_the_balancer_is_open_to_others() {
    let compose = Compose::read();
    let mut public = Vec::new();
    for (name, service) in &compose.services {
        for port in &service.ports {
            let (outside, inside) = port.rsplit_once(':').expect("an address and a port");
            let inside: u16 = inside.parse().expect("a port");
            assert!(listens_on(name, service).contains(&inside), "{name} publishes {inside}");
            if !outside.starts_with("127.0.0.1:") {
                public.push((name.as_str(), inside));
            }
        }
        let open = service.networks.iter().any(|it| !compose.networks[it].as_ref().is_some_and(|it| it.internal));
        assert!(open || service.ports.is_empty(), "{name} publishes a port, but is only in internal networks");
    }
    assert_eq!(public, [("haproxy", 8080)]);
    let published: Vec<&String> = compose.services.values().flat_map(|service| &service.ports).collect();
    assert_eq!(published.iter().collect::<BTreeSet<_>>().len(), published.len(), "twice the same: {published:?}");
}

#[test]
fn every_service_is_bounded_checked_and_comes_back() {
    let compose = Compose::read();
    for (name, service) in &compose.services {
        assert!(!service.mem_limit.is_empty() && service.pids_limit > 0, "{name}");
        assert!(
            service.build.is_some() || service.image == "tillwire" || service.image.contains(':'),
            "{name}: no tag"
        );
        let once = service.restart.starts_with("on-failure:");
        assert!(once || service.restart == "unless-stopped", "{name} is not started again");
        assert_eq!(service.healthcheck.is_some(), !once, "{name} and its health check");
        for port in service.healthcheck.iter().flat_map(|check| &check.test).flat_map(|word| ports_in(word)) {
            assert!(listens_on(name, service).contains(&port), "{name}'s health is looked for on {port}");
        }
        for (dependency, condition) in service.depends_on.iter().map(|(name, it)| (name, it.condition.as_str())) {
            let there = &compose.services[dependency];
            match condition {
                "service_healthy" => assert!(there.healthcheck.is_some(), "{name} waits for {dependency}'s health"),
                "service_completed_successfully" => assert!(there.restart.starts_with("on-failure:")),
                started => assert_eq!(started, "service_started"),
            }
        }
    }
}

/// The numbers of four digits in a command.
fn ports_in(word: &str) -> Vec<u16> {
    word.split(|c: char| !c.is_ascii_digit()).filter(|it| it.len() == 4).filter_map(|it| it.parse().ok()).collect()
}

#[test]
fn every_variable_is_explained_and_every_explained_one_is_used() {
    let text = text();
    let text: String =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|it| format!("{it}\n")).collect();
    let example = example();
    let used: BTreeMap<&str, Option<&str>> = variables(&text).into_iter().map(|it| (it.name, it.default)).collect();
    assert_eq!(
        used.len(),
        variables(&text).len(),
        "a variable that is needed in one place and has a default in another"
    );
    assert_eq!(used.keys().copied().collect::<Vec<_>>(), example.keys().map(String::as_str).collect::<Vec<_>>());
    for (name, default) in &used {
        // What is needed has nothing in the example that would work, and nothing secret has a default.
        assert_eq!(default.unwrap_or_default(), example[*name], "{name}");
        assert!(default.is_none() || !name.contains("PASSWORD"), "{name}");
    }
    let all: BTreeMap<&str, String> = used.keys().map(|name| (*name, "x".to_owned())).collect();
    fill_in(&text, &all).expect("nothing is missing");
    for needed in used.iter().filter(|(_, default)| default.is_none()).map(|(name, _)| *name) {
        let mut all = all.clone();
        all.insert(needed, String::new()); // As the example has it.
        assert_eq!(fill_in(&text, &all), Err(format!("{needed} is missing")));
    }
}

#[test]
fn nodes_are_told_what_their_role_needs_and_nothing_else() {
    let compose = Compose::read();
    let command = Config::command();
    let roles: BTreeSet<&str> = compose.nodes().map(|(_, role, _)| role).collect();
    assert_eq!(roles.into_iter().collect::<Vec<_>>(), ["api", "gateway", "migrate", "worker"]);
    for (name, role, service) in compose.nodes() {
        let role = command.find_subcommand(role).unwrap_or_else(|| panic!("{name}: there is no `tillwire {role}`"));
        let arguments: Vec<_> = role.get_arguments().chain(command.get_arguments()).collect();
        let variable = |argument: &clap::Arg| argument.get_env().map(|name| name.to_string_lossy().into_owned());
        let known: BTreeSet<String> = arguments.iter().filter_map(|argument| variable(argument)).collect();
        for told in service.environment.keys() {
            assert!(known.contains(told), "{name} is told {told}, which `tillwire {}` does not know", role.get_name());
        }
        for needed in arguments.iter().filter(|argument| argument.is_required_set()).filter_map(|it| variable(it)) {
            assert!(service.environment.contains_key(&needed), "{name} is not told {needed}");
        }
    }
}

#[test]
fn nodes_have_the_time_that_they_may_take_to_stop_and_some_to_spare() {
    let (compose, command) = (Compose::read(), Config::command());
    for (name, role, service) in compose.nodes().filter(|(_, role, _)| *role != "migrate") {
        assert!(!service.environment.contains_key("TILLWIRE_DRAIN_SECONDS"), "{name} drains for another time");
        let mut arguments = command.find_subcommand(role).expect("a role").get_arguments();
        let drain = arguments.find(|argument| argument.get_long() == Some("drain-seconds")).expect("a drain");
        let drain: u64 = drain.get_default_values()[0].to_str().and_then(|it| it.parse().ok()).expect("seconds");
        let given = service.stop_grace_period.as_deref().and_then(|it| it.strip_suffix('s')?.parse::<u64>().ok());
        assert!(given.expect("a time in seconds") > drain + STOP_MAX.as_secs(), "{name} is killed before");
    }
}

#[test]
fn secrets_are_in_no_command() {
    let compose = Compose::read();
    for (name, service) in &compose.services {
        let check = service.healthcheck.iter().flat_map(|check| &check.test);
        for word in service.command.iter().chain(check) {
            assert!(variables(word).is_empty(), "{name} shows a variable to whoever lists processes: {word}");
        }
    }
    for file in ["deploy/tillwire/Dockerfile", "deploy/pgbouncer/Dockerfile"] {
        assert!(
            !read(&root().join(file)).lines().any(|line| line.starts_with("ARG ")),
            "{file} keeps arguments in layers"
        );
    }
}

#[test]
fn sessions_are_in_no_log() {
    // Whoever knows the id of a session that polls can hear and speak in its stead, and it is in the query.
    let haproxy = read(&root().join("deploy/haproxy/haproxy.cfg"));
    let lines: Vec<&str> = haproxy.lines().map(str::trim).collect();
    assert!(!lines.iter().any(|line| line.starts_with("option httplog")), "it logs whole requests");
    let formats: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("log-format ")).collect();
    assert_eq!(formats.len(), 1, "one that replaces it");
    let words: Vec<&str> = formats[0].split([' ', '/', '"', '\'']).collect();
    assert!(words.contains(&"%HP"), "{words:?}");
    for with_query in ["%r", "%{+Q}r", "%HU", "%HQ"] {
        assert!(!words.contains(&with_query), "{words:?}");
    }
}

#[test]
fn the_image_is_built_from_all_that_the_code_needs() {
    let ignore = read(&root().join("deploy/tillwire/Dockerfile.dockerignore"));
    let kept: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for path in &kept {
        assert!(root().join(path).exists(), "{path} is kept, but is not there");
    }
    // What the build script copies, what queries were found to return, and what the code takes in of other folders.
    let mut needed =
        BTreeSet::from(["Cargo.toml", "Cargo.lock", ".sqlx", "build.rs", "migrations", "src"].map(str::to_owned));
    let manifest = read(&root().join("Cargo.toml"));
    let paths = manifest.split("path = \"").skip(1).filter_map(|rest| rest.split('"').next());
    needed.extend(paths.filter(|path| !path.starts_with("tests/")).map(str::to_owned));
    // cargo reads the manifest of every member, also of those that it does not compile.
    let members = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("a workspace").0;
    needed.extend(members.split('"').filter(|name| name.starts_with(char::is_alphabetic)).map(str::to_owned));
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let code = read(&entry);
            for taken in code.split("include_").skip(1).filter_map(|rest| rest.split('"').nth(1)) {
                let outside = taken.trim_start_matches("../").split('/').next().unwrap_or_default();
                if taken.starts_with("../") && root().join(outside).exists() {
                    needed.insert(outside.to_owned());
                }
            }
        }
    }
    assert!(["demo", "web", "loadtest"].iter().all(|path| needed.contains(*path)), "{needed:?}");
    for path in needed {
        assert!(kept.contains(path.as_str()), "{path} is needed, and is not in the image's context");
    }
}
