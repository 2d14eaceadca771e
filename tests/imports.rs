//! Imports go one way: `channels` ← `journal` ← `commerce` ← edges. What the code of each room names is read, in `use`
//! lines and elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may never name, besides what is in itself.
const WALLS: &[(&str, &[&str])] = &[
    (
        "src/journal",
        &[
            "crate::commerce",
            "crate::identity",
            "crate::http",
            "crate::bus",
            "crate::gateway",
            "crate::hub",
            "crate::node",
            "crate::jobs",
            "crate::roles",
            "crate::screens",
            "axum",
            "lapin",
            "redis",
            "tillwire_socketio",
        ],
    ),
    (
        "src/commerce",
        &[
            "crate::http",
            "crate::bus",
            "crate::gateway",
            "crate::hub",
            "crate::node",
            "crate::roles",
            "axum",
            "lapin",
            "redis",
            "tillwire_socketio",
        ],
    ),
    (
        "src/identity",
        &[
            "crate::commerce",
            "crate::http",
            "crate::bus",
            "crate::gateway",
            "crate::hub",
            "crate::node",
            "crate::roles",
            "axum",
        ],
    ),
    (
        "src/screens",
        &[
            "crate::commerce",
            "crate::identity",
            "crate::http",
            "crate::bus",
            "crate::gateway",
            "crate::hub",
            "crate::node",
            "crate::roles",
            "axum",
            "lapin",
            "redis",
            "tillwire_socketio",
        ],
    ),
    (
        "src/brokers",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::journal",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "axum",
            "sqlx",
        ],
    ),
    (
        "src/bus",
        &[
            "crate::commerce",
            "crate::http",
            "crate::gateway",
            "crate::hub",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "axum",
        ],
    ),
    (
        "src/queues",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::journal",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "crate::workers",
            "axum",
            "redis",
            "sqlx",
        ],
    ),
    (
        "src/handled",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::node",
            "crate::queues",
            "crate::relay",
            "crate::roles",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
        ],
    ),
    (
        "src/audit",
        &["crate::bus", "crate::commerce", "crate::gateway", "crate::http", "crate::hub", "crate::node", "lapin"],
    ),
    (
        "src/relay",
        &[
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::identity",
            "crate::node",
            "crate::roles",
            "crate::screens",
            "axum",
            "redis",
        ],
    ),
    (
        "src/gateway",
        &["crate::commerce", "crate::http", "crate::hub", "crate::node", "crate::roles", "lapin", "redis", "sqlx"],
    ),
    (
        "src/push",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "crate::screens",
            "crate::webhooks",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
        ],
    ),
    (
        "src/webhooks",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
        ],
    ),
    (
        "src/connectors",
        &[
            "crate::audit",
            "crate::bus",
            "crate::gateway",
            "crate::handled",
            "crate::http",
            "crate::hub",
            "crate::identity",
            "crate::jobs",
            "crate::journal",
            "crate::node",
            "crate::push",
            "crate::queues",
            "crate::relay",
            "crate::roles",
            "crate::screens",
            "crate::webhooks",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
            "sqlx",
            "tillwire_socketio",
        ],
    ),
    (
        "src/jobs",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::identity",
            "crate::node",
            "crate::relay",
            "crate::roles",
            "crate::screens",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
            "tillwire_socketio",
        ],
    ),
    (
        "src/workers",
        &["crate::gateway", "crate::http", "crate::hub", "crate::node", "crate::roles", "axum", "lapin", "redis"],
    ),
    (
        "src/vault",
        &[
            "crate::accounts",
            "crate::bus",
            "crate::commerce",
            "crate::connectors",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::identity",
            "crate::jobs",
            "crate::node",
            "crate::push",
            "crate::roles",
            "crate::webhooks",
            "crate::workers",
            "axum",
        ],
    ),
    (
        "src/accounts",
        &[
            "crate::bus",
            "crate::commerce",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::node",
            "crate::payments",
            "crate::push",
            "crate::reconciliation",
            "crate::relay",
            "crate::roles",
            "crate::webhooks",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
        ],
    ),
    (
        "src/payments",
        &[
            "crate::bus",
            "crate::gateway",
            "crate::handled",
            "crate::http",
            "crate::hub",
            "crate::jobs",
            "crate::node",
            "crate::push",
            "crate::queues",
            "crate::reconciliation",
            "crate::relay",
            "crate::roles",
            "crate::screens",
            "crate::webhooks",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
            "tillwire_socketio",
        ],
    ),
    (
        "src/reconciliation",
        &[
            "crate::bus",
            "crate::gateway",
            "crate::http",
            "crate::hub",
            "crate::jobs",
            "crate::node",
            "crate::push",
            "crate::relay",
            "crate::roles",
            "crate::screens",
            "crate::webhooks",
            "crate::workers",
            "axum",
            "lapin",
            "redis",
        ],
    ),
    ("src/egress", &["crate"]),
    (
        "src/http",
        &[
            "crate::workers",
            "crate::relay",
            "crate::queues",
            "crate::bus",
            "crate::gateway",
            "crate::node",
            "crate::roles",
            "sqlx",
        ],
    ),
    ("src/hub", &["crate::http", "crate::bus", "crate::gateway", "crate::node", "crate::roles"]),
    ("src/node", &["crate::commerce", "crate::roles", "sqlx"]),
    ("src/embedded", &["crate"]),
    ("src/demo", &["crate::http", "crate::journal", "crate::node", "crate::embedded", "crate::roles", "sqlx"]),
    ("channels/src", &["sqlx", "tokio", "tillwire", "axum"]),
    ("socketio/src", &["tillwire", "tillwire_channels", "sqlx"]),
    ("nemesis/src", &["tillwire", "tillwire_socketio", "sqlx", "axum"]),
    ("simulators/src", &["tillwire", "tillwire_channels", "tillwire_socketio", "sqlx"]),
];

/// What no statement of ours may have in it, and why.
const NEVER: &[(&str, &str)] = &[
    ("pg_notify", "takes a lock of the whole database when it commits"),
    ("\"notify ", "takes a lock of the whole database when it commits"),
    ("pglistener", "hears nothing behind a pooler"),
    ("\"listen ", "hears nothing behind a pooler"),
    (".persistent(false)", "is answered with another statement's rows behind a pooler"),
];

#[test]
fn rooms_only_see_what_lies_below_them() {
    let walls =
        WALLS.iter().map(|(room, forbidden)| (*room, forbidden.iter().map(ToString::to_string).collect::<Vec<_>>()));
    assert_eq!(walls.flat_map(|(room, forbidden)| broken(room, &forbidden)).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn roles_never_import_one_another() {
    let entries = fs::read_dir(root().join("src/roles")).expect("the roles").map(|entry| entry.expect("a role").path());
    let mut roles: Vec<String> =
        entries.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    roles.retain(|role| role != "mod");
    assert!(roles.len() > 2, "{roles:?}");
    for role in &roles {
        let others = roles.iter().filter(|other| *other != role).map(|other| format!("crate::roles::{other}"));
        assert_eq!(broken(&format!("src/roles/{role}"), &others.collect::<Vec<_>>()), [""; 0]);
    }
}

#[test]
fn what_serves_is_built_without_what_only_plays() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--locked", "--edges", "normal,build", "--package", "tillwire", "--prefix", "none"];
    let output = std::process::Command::new(cargo).args(tree).current_dir(root()).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let ours: Vec<&str> =
        text.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with("tillwire")).collect();
    assert!(ours.contains(&"tillwire-channels") && ours.contains(&"tillwire-socketio"), "{ours:?}");
    for player in ["tillwire-simulators", "tillwire-nemesis", "tillwire-loadtest"] {
        assert!(!ours.contains(&player), "{ours:?}");
    }
}

#[test]
fn a_wall_is_seen_where_there_is_one() {
    let named = |code: &str, wall: &str| paths(code, "crate::gateway::feed").iter().any(|path| is_in(path, wall));
    for code in [
        "use crate::http::router;",
        "pub use crate::http as web;",
        "use crate::{http, journal};",
        "use crate::{\n    journal::{self, Pools},\n    http::{router, guard},\n};",
        "use super::super::http;",
        "use super::super::{bus, http::router};",
        "    let page = crate::http::page(x);",
        "mod tests {\n    use super::super::super::http;\n}",
    ] {
        assert!(named(code, "crate::http"), "{code}");
    }
    assert!(named("use axum;", "axum") && named("    axum::serve(x)", "axum") && named("sqlx::query!(\"\")", "sqlx"));
    for code in [
        "// use crate::http;",
        "use crate::journal::http;",
        "use super::http;",
        "use crate::https;",
        "mod tests {\n    use super::super::http;\n}",
        "let taxum = 1;",
    ] {
        assert!(!named(code, "crate::http") && !named(code, "axum"), "{code}");
    }
    assert!(!named("use tillwire_channels::Event;", "tillwire"));
}

#[test]
fn no_statement_is_one_that_a_busy_database_or_a_pooler_cannot_bear() {
    let migrations = fs::read_dir(root().join("migrations")).expect("the migrations");
    let mut files = rust_files(&root().join("src"));
    files.extend(migrations.map(|entry| entry.expect("a migration").path()));
    assert!(files.iter().any(|file| file.ends_with("journal/tx.rs")) && files.iter().any(|file| is_sql(file)));
    let found = files.iter().flat_map(|file| {
        let code = fs::read_to_string(file).expect("a source file");
        unbearable(&code).map(|why| format!("{}: {why}", file.display())).collect::<Vec<_>>()
    });
    assert_eq!(found.collect::<Vec<_>>(), [""; 0]);

    // And it would say so.
    for code in ["select pg_notify('a', 'b')", "sqlx::query(\"NOTIFY a\")", "query.persistent(false)"] {
        assert_eq!(unbearable(code).count(), 1, "{code}");
    }
}

/// Of two types with one name the OpenAPI document describes one, and says it of both.
#[test]
fn no_two_types_are_described_by_one_name() {
    let mut described: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in [rust_files(&root().join("src")), rust_files(&root().join("channels/src"))].concat() {
        let text = fs::read_to_string(&file).expect("a source");
        for after in text.split("#[derive(").skip(1) {
            let (derived, rest) = after.split_once(")]").expect("a derive");
            if !derived.split([',', ' ', '\n']).any(|it| it == "ToSchema") {
                continue;
            }
            let named = |word: &str| rest.find(word).map(|at| (at, &rest[at + word.len()..]));
            let (at, own) = ["pub struct ", "pub enum "].into_iter().filter_map(named).min().expect("a type");
            if own.starts_with('$') {
                continue; // A macro's, whose types have names of their own.
            }
            let other = rest[..at].split_once("schema(as = ").map(|(_, name)| name);
            let is_of_the_name = |it: char| it.is_alphanumeric() || it == '_';
            let name = other.unwrap_or(own).split(|it| !is_of_the_name(it)).next().expect("a name").to_owned();
            if let Some(another) = described.insert(name.clone(), file.clone()) {
                panic!("{name} is described by {} and by {}: say #[schema(as = …)]", another.display(), file.display());
            }
        }
    }
    assert!(described.len() > 100, "{}", described.len());
}

/// What a file has in it that no statement may.
fn unbearable(code: &str) -> impl Iterator<Item = String> {
    let code = code.to_lowercase();
    NEVER.iter().filter(move |(word, _)| code.contains(word)).map(|(word, why)| format!("{word} {why}"))
}

fn is_sql(file: &Path) -> bool {
    file.extension().is_some_and(|it| it == "sql")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where a room names what it may not.
fn broken(room: &str, forbidden: &[String]) -> Vec<String> {
    let mut files = rust_files(&root().join(room));
    files.extend(Some(root().join(format!("{room}.rs"))).filter(|file| file.exists()));
    assert!(!files.is_empty(), "no such room: {room}");
    let itself = module(Path::new(room));
    let mut broken = Vec::new();
    for file in files {
        let code = fs::read_to_string(&file).expect("a source file");
        let file = file.strip_prefix(root()).expect("a file of ours");
        let outside = paths(&code, &module(file)).into_iter().filter(|path| !is_in(path, &itself));
        let found = outside.filter(|path| forbidden.iter().any(|wall| is_in(path, wall)));
        broken.extend(found.map(|path| format!("{} names {path}", file.display())));
    }
    broken
}

/// The module that a file is, as a path.
fn module(file: &Path) -> String {
    let inside = file.iter().map(|part| part.to_string_lossy()).skip_while(|part| part != "src").skip(1);
    let parts: Vec<_> = inside.map(|part| part.trim_end_matches(".rs").to_owned()).collect();
    let parts = parts.into_iter().filter(|part| part != "mod" && part != "lib");
    [String::from("crate")].into_iter().chain(parts).collect::<Vec<_>>().join("::")
}

/// Whether a path is this or leads into it.
fn is_in(path: &str, wall: &str) -> bool {
    path.strip_prefix(wall).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that the code of a module names, whole: out of groups, and up from `super`.
fn paths(code: &str, module: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let (code, tests) = code.split_once("mod tests {").unwrap_or((&code, ""));
    let tests_module = format!("{module}::tests");
    [(code, module), (tests, &tests_module)]
        .into_iter()
        .flat_map(|(code, module)| {
            let is_word = |it: char| it.is_alphanumeric() || it == '_';
            let uses = code.match_indices("use ").filter(|(at, _)| !code[..*at].ends_with(is_word));
            let trees = uses.filter_map(|(at, word)| code[at + word.len()..].split(';').next()).flat_map(leaves);
            let elsewhere = code.split(|it| !is_word(it) && it != ':').filter(|path| path.contains("::"));
            let all = trees.chain(elsewhere.map(str::to_owned));
            all.map(|path| absolute(&path, module)).collect::<Vec<_>>()
        })
        .collect()
}

/// The paths of a `use` tree.
fn leaves(tree: &str) -> Vec<String> {
    let Some((stem, branches)) = tree.split_once('{') else {
        return tree.split_whitespace().next().map(str::to_owned).into_iter().collect();
    };
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, it) in branches.char_indices() {
        if depth == 0 && (it == ',' || it == '}') {
            found.extend(leaves(&branches[from..at]).into_iter().map(|leaf| format!("{}{leaf}", stem.trim())));
            from = at + 1;
        }
        match it {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

/// A path as seen from the crate's root, for one that begins with `self` or `super`.
fn absolute(path: &str, module: &str) -> String {
    if let Some(rest) = path.strip_prefix("self::") {
        return format!("{module}::{rest}");
    }
    let (mut module, mut rest) = (module, path);
    while let Some(further) = rest.strip_prefix("super::") {
        (module, rest) = (module.rsplit_once("::").map_or(module, |(parent, _)| parent), further);
    }
    if rest == path { path.to_owned() } else { format!("{module}::{rest}") }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.expect("a folder's entry").path())
        .flat_map(|path| {
            if path.is_dir() {
                rust_files(&path)
            } else if path.extension().is_some_and(|it| it == "rs") {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}
