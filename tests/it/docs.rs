//! What the documents say, done as they say it.

use std::path::Path;

use tillwire_channels::{MerchantId, Role};
use tokio::process::Command;

use super::support::hub::TestHub;

#[tokio::test]
async fn the_first_sale_of_the_readme_is_sold() {
    let hub = TestHub::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/first-sale.sh");
    let output = Command::new("bash")
        .arg(script)
        .env("HUB", format!("http://{}", hub.address))
        .env("TOKEN", hub.token(MerchantId::new(), Role::Owner, &[]))
        .output()
        .await
        .expect("bash and curl");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let journal: serde_json::Value = serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON");
    let kinds: Vec<&str> =
        journal["events"].as_array().unwrap().iter().map(|it| it["event"]["type"].as_str().unwrap()).collect();
    assert!(kinds.ends_with(&["stock.changed", "sale.completed", "payment.captured", "stock.changed"]), "{kinds:?}");
}
