//! Imports go one way: `channels` ← `journal` ← `commerce` ← edges. The `use` lines and paths of each room are read.

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may never name.
const WALLS: &[(&str, &[&str])] = &[
    ("src/journal", &["crate::commerce", "crate::http", "crate::bus", "crate::roles", "axum", "socketio"]),
    ("src/commerce", &["crate::http", "crate::bus", "crate::roles", "axum", "lapin", "redis", "socketio"]),
    ("src/identity", &["crate::commerce", "crate::http", "crate::bus", "crate::roles", "axum"]),
    ("src/bus", &["crate::commerce", "crate::http", "crate::roles", "axum"]),
    ("src/gateway", &["crate::commerce", "crate::http", "crate::roles", "lapin", "redis", "sqlx::query!("]),
    ("src/http", &["crate::bus", "crate::roles", "sqlx::query!("]),
    ("src/embedded", &["crate::"]),
    ("src/demo", &["crate::http", "crate::journal", "crate::node", "crate::embedded", "crate::roles", "sqlx"]),
    ("channels/src", &["sqlx", "tokio", "tillwire::", "axum"]),
    ("socketio/src", &["tillwire::", "tillwire_channels", "sqlx"]),
];

#[test]
fn rooms_only_see_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (room, forbidden) in WALLS {
        let files = rust_files(&root.join(room));
        assert!(!files.is_empty(), "no such room: {room}");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                let found = forbidden.iter().filter(|name| names(line, name));
                broken.extend(found.map(|name| format!("{}:{} names {name}", file.display(), number + 1)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_wall_is_seen_where_there_is_one() {
    assert!(names("use crate::http::router;", "crate::http") && names("    axum::serve(x)", "axum"));
    assert!(!names("let taxum = 1;", "axum") && !names("use tillwire_channels::Event;", "tillwire::"));
}

/// Whether the line names it as a path, and not as a part of another word.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        let of_a_word = |it: Option<char>| it.is_some_and(|it| it.is_alphanumeric() || it == '_');
        !of_a_word(before)
            && (path.ends_with(':') || path.ends_with('(') || after == Some(':') || line.contains("use "))
            && (path.ends_with(':') || path.ends_with('(') || !of_a_word(after))
    })
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
