//! Payments by providers, where simulators play them on this machine: the merchant's accounts there, and a till at which a
//! person sells.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::api::Api;
use super::setup::done;
use super::shop::{NAME, OUTLETS, REGISTERS, Shop, Who};

/// How long a simulator may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Where the till of whoever opens the link is: at the busiest outlet, beside those that the demo's own cashiers stand at.
const OUTLET: usize = 0;
pub const PERSON: Who = Who::Cashier(OUTLET, REGISTERS);
/// And whose name is on it.
const CASHIER: &str = "Putri Maharani";

/// Where simulators of providers are, if there are any: URLs without a slash at their end.
#[derive(Clone, Debug, Default)]
pub struct Simulators {
    pub midtrans: Option<String>,
    pub xendit: Option<String>,
}

/// An account as its owner and as the simulator is told of it. The keys are those that simulators have without being told, which
/// are no secrets.
struct Account<'a> {
    provider: &'static str,
    url: &'a str,
    /// As the provider names the merchant, and what it calls that name.
    there: (&'static str, &'static str),
    credentials: Value,
}

impl Simulators {
    /// The page that plays the customer's bank. None without simulators.
    pub fn bank(&self) -> Option<String> {
        self.midtrans.as_ref().or(self.xendit.as_ref()).map(|url| format!("{url}/_sim/bank"))
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        let midtrans = self.midtrans.as_deref().map(|url| Account {
            provider: "midtrans",
            url,
            there: ("merchant_id", "G552010987"),
            credentials: json!({
                "provider": "midtrans",
                "server_key": "SB-Mid-server-EXAMPLEKEY1234567890ab",
                "client_key": "SB-Mid-client-EXAMPLEKEY1234",
                "merchant_id": "G552010987",
            }),
        });
        let xendit = self.xendit.as_deref().map(|url| Account {
            provider: "xendit",
            url,
            there: ("business_id", "64f0c1d2e3a4b5c6d7e8f901"),
            credentials: json!({
                "provider": "xendit",
                "secret_key": "xnd_development_EXAMPLEKEY1234567890",
                "callback_tokens": ["EXAMPLE-callback-token-1234567890"],
                "business_id": "64f0c1d2e3a4b5c6d7e8f901",
            }),
        });
        midtrans.into_iter().chain(xendit)
    }
}

/// Opens the till and the accounts, each once, and tells the simulators, which keep nothing, where the hub is.
///
/// # Errors
/// If the hub or a simulator does not answer, or refuses: if there are other accounts, say. The shop can sell without.
pub async fn open(api: &Api, shop: &Shop, hub: SocketAddr, simulators: &Simulators) -> anyhow::Result<()> {
    till(api, shop).await.context("opening a till")?;
    for account in simulators.accounts() {
        let provider = account.provider;
        let path = add(api, shop, &account).await.with_context(|| format!("adding the account at {provider}"))?;
        let (field, name) = account.there;
        let told = json!({
            "provider": provider,
            field: name,
            "webhook_urls": [format!("http://{hub}{path}")],
            "shop": { "name": NAME, "city": "Jakarta" },
        });
        let url = format!("{}/_sim/accounts", account.url);
        tell(&url, &told).await.with_context(|| format!("telling {provider}'s simulator at {url}"))?;
    }
    Ok(())
}

async fn till(api: &Api, shop: &Shop) -> anyhow::Result<()> {
    let (owner, person) = (shop.bearer(Who::Owner), shop.bearer(PERSON));
    let (outlet, code) = (shop.outlet(OUTLET), format!("R{}", REGISTERS + 1));
    let body = json!({ "id": person.register, "code": code, "name": format!("Kasir {}", REGISTERS + 1) });
    let key = format!("register-{}-{code}", OUTLETS[OUTLET].code);
    done(api.post(&owner, &format!("/v1/outlets/{outlet}/registers"), &key, &body).await)?;
    let body = json!({ "id": person.staff, "name": CASHIER, "role": person.role });
    done(api.post(&owner, "/v1/staff", &format!("staff-{}", person.staff), &body).await)?;
    Ok(())
}

/// Adds an account if it is not there, and gives the path that its provider is to post to.
async fn add(api: &Api, shop: &Shop, account: &Account<'_>) -> anyhow::Result<String> {
    let owner = shop.bearer(Who::Owner);
    let known = api.get(&owner, "/v1/provider-accounts").await?;
    let is_it = |it: &&Value| {
        it["provider"] == account.provider && it["mode"] == "test" && it["merchant_there"] == account.there.1
    };
    let found = match known["items"].as_array().and_then(|accounts| accounts.iter().find(is_it)) {
        Some(found) => found.clone(),
        None => {
            let key = format!("account-{}", account.provider);
            let id = shop.account(account.provider);
            let body = json!({ "id": id, "credentials": account.credentials, "mode": "test", "label": "Simulator" });
            api.post(&owner, "/v1/provider-accounts", &key, &body).await?
        }
    };
    Ok(found["webhook_path"].as_str().context("an account without a webhook_path")?.to_owned())
}

/// Tells a simulator something.
async fn tell(url: &str, what: &Value) -> anyhow::Result<()> {
    let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let body = Full::new(serde_json::to_vec(what)?.into());
    let request = Request::post(url).header(CONTENT_TYPE, "application/json").body(body)?;
    let answer = async {
        let (parts, body) = http.request(request).await?.into_parts();
        anyhow::Ok((parts.status, body.collect().await?.to_bytes()))
    };
    let (status, said) = tokio::time::timeout(ANSWER_MAX, answer).await.context("no answer")??;
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&said));
    }
    Ok(())
}
