//! What the documents quote of the code is what the code says.

use std::fs;
use std::path::Path;

/// The quoted fragments of a document: the file that stands before each, and its lines.
fn fragments(text: &str) -> Vec<(&str, Vec<&str>)> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| **line == "```rust").map(|(at, _)| at);
    starts
        .map(|at| {
            let file = lines[at - 1].trim_matches('`');
            (file, lines[at + 1..].iter().copied().take_while(|line| *line != "```").collect())
        })
        .collect()
}

#[test]
fn the_walk_through_a_new_event_is_true_of_one_that_is_there() {
    is_true("docs/adding-an-event.md", 7);
}

#[test]
fn the_walk_through_a_new_connector_is_true_of_those_that_are_there() {
    is_true("docs/adding-a-connector.md", 10);
}

/// Every line that a document quotes is in the file that it names, and all files that it names are there.
fn is_true(document: &str, fragments_in_it: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).expect("the document");
    let fragments = fragments(&text);
    assert_eq!(fragments.len(), fragments_in_it, "every fragment is found");
    for (file, quoted) in fragments {
        let code = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let code: Vec<&str> = code.lines().collect();
        for line in quoted {
            assert!(code.contains(&line), "{file} does not say any more: {line}");
        }
    }
    for file in text.split('`').filter(|word| word.ends_with(".rs") || word.starts_with("bin/")) {
        let file = file.split(' ').next().unwrap_or_default();
        assert!(root.join(file).exists(), "{file} is not there");
    }
}
