//! `docs/simulators.md`, done as it says.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{BUSINESS, CLIENT_KEY, MERCHANT, SECRET_KEY, SERVER_KEY, Stage, TOKEN};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/simulators.md");
    std::fs::read_to_string(path).expect("the page")
}

#[tokio::test]
async fn every_example_is_answered() {
    let stage = Stage::start().await;
    let page = page();
    let blocks = page.split("```http\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut done = 0;
    for example in blocks.flat_map(|block| block.split("\n\n")) {
        let (line, body) = example.split_once('\n').expect("a line and a body");
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["POST", path] => {
                stage.sim(&format!("POST {}", path.strip_prefix("/_sim/").expect("a control")), body).await
            }
            ["POST", "midtrans", path] => stage.midtrans(&format!("POST {path}"), body).await,
            ["POST", "xendit", path] => stage.xendit(&format!("POST {path}"), body).await,
            _ => panic!("{line}"),
        };
        assert!((200..300).contains(&answer.status), "{example}: {}", answer.text());
        assert!(matches!(answer.body["status_code"].as_str(), None | Some("201")), "{example}: {}", answer.text());
        done += 1;
    }
    assert!(done > 15, "{done}");
    let faults = stage.sim("GET faults", Value::Null).await.body;
    assert_eq!(faults["faults"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn every_fault_and_no_other_is_there() {
    let stage = Stage::start().await;
    let refused = stage.sim("POST faults", json!({ "fault": "?" })).await;
    let listed = refused.body["error"].as_str().unwrap().split_once("expected one of").expect("a list").1.to_owned();
    let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let known = names(&listed);
    let page = page();
    let rows = page.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').nth(1).unwrap());
    let told: BTreeSet<_> = rows.flat_map(names).collect();
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(told, known);
}

#[test]
fn the_keys_are_the_ones_that_it_starts_with() {
    for key in [SERVER_KEY, CLIENT_KEY, MERCHANT, SECRET_KEY, BUSINESS, TOKEN] {
        assert!(page().contains(&format!("`{key}`")), "{key}");
    }
}
