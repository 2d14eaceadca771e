//! What goes wrong on the way: certificates that nobody trusts, none to trust at all, answers that break off.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::support::tls::Authority;
use super::*;

/// A receiver that says these bytes to whoever posts, and hangs up.
async fn abrupt(says: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![];
            while !asked.ends_with(b"}") && stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {}
            let _ = stream.write_all(says.as_bytes()).await;
        }
    });
    url
}

impl Owner<'_> {
    /// A webhook that leads there, once tested. Answers its path and the attempt.
    async fn tests(&self, url: &str) -> (String, Value) {
        let added =
            self.asks("POST", "/v1/webhooks", json!({ "url": url, "events": ["sale.completed"] })).await.created();
        let webhook = format!("/v1/webhooks/{}", added["id"].as_str().unwrap());
        let tested = self.asks("POST", &format!("{webhook}/test"), Value::Null).await.ok();
        (webhook, tested)
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_one_once_its_status_is_known() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let in_body = abrupt("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthan").await;
    let (webhook, tested) = owner.tests(&in_body).await;
    assert_eq!((&tested["outcome"], &tested["response_body"]), (&json!("delivered"), &json!("than")), "{tested}");
    let start = seq(&owner.looks(&webhook).await);
    owner.sells().await;
    owner.stands_at(&webhook, start + 1).await;
    owner.asks("DELETE", &webhook, Value::Null).await.ok();

    for says in ["HTTP/1.1 20", "", "what?\r\n\r\n"] {
        let (_, tested) = owner.tests(&abrupt(says).await).await;
        assert_eq!((&tested["outcome"], &tested["response_status"]), (&json!("failed"), &Value::Null), "{says:?}");
        assert!(tested["error"].as_str().is_some_and(|error| !error.is_empty()), "{tested}");
    }
}

#[tokio::test]
async fn p15_a_receiver_behind_tls_is_told_where_its_certificate_is_trusted_and_nowhere_else() {
    let hub = TestHub::start().await;
    let (known, unknown) = tokio::join!(Authority::make(), Authority::make());
    let mut env = worker_env(&hub)[0].clone();
    env.insert("SSL_CERT_FILE", known.certificate.display().to_string());
    let node = TillwireProcess::start(&["serve"], &env).await;
    let owner = Owner::at(&hub, node.public, "Toko Roti").await;
    let (webhook, tested) = owner.tests(&format!("https://{}/hook", known.receiver())).await;
    assert_eq!((&tested["outcome"], &tested["response_status"]), (&json!("delivered"), &json!(200)), "{tested}");
    let start = seq(&owner.looks(&webhook).await);
    owner.sells().await;
    owner.stands_at(&webhook, start + 1).await;

    let (_, tested) = owner.tests(&format!("https://{}/hook", unknown.receiver())).await;
    assert_eq!((&tested["outcome"], &tested["response_status"]), (&json!("failed"), &Value::Null));
    let error = tested["error"].as_str().unwrap();
    assert!(error.contains("certificate") && error.contains("UnknownIssuer"), "{error}");
    // One that is trusted, and is another's than the name that leads there.
    let port = known.receiver().port();
    let mut env = worker_env(&hub)[1].clone();
    env.insert("SSL_CERT_FILE", known.certificate.display().to_string());
    env.insert("TILLWIRE_WEBHOOK_PORTS", port.to_string());
    env.insert("TILLWIRE_WEBHOOK_NETWORKS", "127.0.0.0/8,::1/128".to_owned());
    let node = TillwireProcess::start(&["serve"], &env).await;
    let owner = Owner::at(&hub, node.public, "Saingan").await;
    let (_, tested) = owner.tests(&format!("https://localhost:{port}/hook")).await;
    let error = tested["error"].as_str().unwrap();
    assert!(error.contains("certificate") && error.contains("name"), "{error}");
}

#[tokio::test]
async fn a_machine_that_trusts_nobody_tells_nobody_says_why_and_does_all_else() {
    let hub = TestHub::start().await;
    let nothing = super::super::support::services::dir("nothing").join("empty.pem");
    std::fs::write(&nothing, "").expect("a file");
    let mut env = worker_env(&hub)[0].clone();
    env.insert("SSL_CERT_FILE", nothing.display().to_string());
    let node = TillwireProcess::start(&["serve"], &env).await;
    let owner = Owner::at(&hub, node.public, "Toko Roti").await;
    let authority = Authority::make().await;
    let (webhook, tested) = owner.tests(&format!("https://{}/hook", authority.receiver())).await;
    assert_eq!(tested["outcome"], "failed");
    assert!(tested["error"].as_str().unwrap().contains("ca-certificates"), "{tested}");
    owner.sells().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    assert_eq!(node.probe("/readyz").await, Some(200));
    assert_eq!(owner.shop.journal_of(&["sale.completed"]).await.len(), 1);
}
