//! Cards: at Midtrans by a token that its script gives to a browser, and a page of 3-D Secure; at Xendit on a page of its own.

use super::*;

/// Midtrans' test cards: one that is accepted, and one that its bank refuses.
pub const GOOD: &str = "4811111111111114";
const REFUSED: &str = "4911111111111113";
/// The server key, as Basic has it.
pub const MIDTRANS_BASIC: &str = "Basic U0ItTWlkLXNlcnZlci1FWEFNUExFS0VZMTIzNDU2Nzg5MGFiOg==";

/// A token for a card, as a browser gets it.
pub async fn token(midtrans: SocketAddr, number: &str) -> String {
    let card = format!("card_number={number}&card_cvv=123&card_exp_month=02&card_exp_year=2030");
    let path = format!("/v2/token?client_key=SB-Mid-client-EXAMPLEKEY1234&{card}");
    let made = request(midtrans, "GET", &path, &[], vec![]).await.expect("an answer").ok();
    made["token_id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

/// A payment by card.
pub async fn card(market: &Market, provider: &str, number: &str) -> Value {
    let mut payment = json!({ "method": "card", "provider": provider });
    if provider == "midtrans" {
        payment["card_token"] = json!(token(market.providers.midtrans, number).await);
    }
    payment
}

/// One that was asked for, and has a page for the customer.
pub async fn asks_for_card(market: &Market, shop: &Shop<'_>, sale: &Value, provider: &str) -> Value {
    let payment = asks(shop, sale, card(market, provider, GOOD).await).await.created();
    assert_eq!((&payment["state"], &payment["shown"]["type"]), (&json!("pending"), &json!("redirect")), "{payment}");
    payment
}

/// The customer fills in the page that they are shown. Answers what it says then.
pub async fn fills_in(payment: &Value, form: &str) -> String {
    let url = payment["shown"]["url"].as_str().expect("a page");
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = format!("/{path}");
    let answer = request(address.parse().expect("an address"), "POST", &path, &headers, form.as_bytes().to_vec()).await;
    String::from_utf8(answer.expect("an answer").body).expect("a page")
}

/// The same, and proves that the card is theirs.
pub async fn proves(payment: &Value) -> String {
    let is_midtrans = payment["provider"] == "midtrans";
    fills_in(payment, if is_midtrans { "otp=112233" } else { "card=4000000000001000" }).await
}

/// The states that screens were told of a payment.
async fn told(shop: &Shop<'_>, payment: &Value) -> Vec<String> {
    let changes = shop.journal_of(&["payment.changed"]).await;
    let of_it = changes.iter().filter(|(_, event)| event["data"]["payment"] == payment["id"]);
    of_it.map(|(_, event)| event["data"]["state"].as_str().expect("a state").to_owned()).collect()
}

#[tokio::test]
async fn a_card_is_paid_on_its_providers_page() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks_for_card(market, &shop, &sale, provider).await;
        assert_eq!(payment["hold"], false);
        proves(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], &sold["tenders"][0]["method"]), (&json!("completed"), &json!("card")));
        assert_eq!(told(&shop, &payment).await, ["pending"]);
    }
    assert!(tasks(&shop).await.is_empty());
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn that_its_money_has_come_is_told_as_well() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    let sale = opens(&shop, &bread).await;
    let payment = asks_for_card(&market, &shop, &sale, "midtrans").await;
    proves(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    market.says("settle", json!({ "id": payment["id"] })).await;
    comes_to(&shop, &payment, "settled").await;
    assert_eq!(told(&shop, &payment).await, ["pending", "settled"]);
}

#[tokio::test]
async fn a_card_that_its_bank_refuses_says_why_and_another_may_pay() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let refused = asks(&shop, &sale, card(market, "midtrans", REFUSED).await).await.created();
    proves(&refused).await;
    assert_eq!(comes_to(&shop, &refused, "failed").await["failure"], "05 Do not honour");
    // Nor does somebody pay who cannot prove to be the card's.
    let stolen = asks_for_card(market, &shop, &sale, "midtrans").await;
    fills_in(&stolen, "otp=000000").await;
    assert_eq!(comes_to(&shop, &stolen, "failed").await["failure"], "01 Cardholder was not authenticated");
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    let good = asks_for_card(market, &shop, &sale, "xendit").await;
    proves(&good).await;
    comes_to(&shop, &good, "paid").await;
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
}

#[tokio::test]
async fn a_card_that_midtrans_looks_into_waits_for_the_merchant_there() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (verb, state) in [("approve", "paid"), ("deny", "failed")] {
        let sale = opens(&shop, bread).await;
        let payment = asks_for_card(market, &shop, &sale, "midtrans").await;
        market.says("faults", json!({ "fault": "challenge", "payment": payment["id"] })).await;
        proves(&payment).await;
        comes_to(&shop, &payment, "review").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
        let path = format!("/v2/{}/{verb}", payment["id"].as_str().unwrap());
        let headers = [("authorization", MIDTRANS_BASIC), ("accept", "application/json")];
        request(market.providers.midtrans, "POST", &path, &headers, vec![]).await.expect("an answer").ok();
        comes_to(&shop, &payment, state).await;
        let is_paid = sale_of(&shop, &sale).await["state"] == "completed";
        assert_eq!(is_paid, verb == "approve");
    }
}

#[tokio::test]
async fn a_card_that_is_refused_on_xendits_page_leaves_it_open_for_another() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let dealt_with = async |tries: usize| {
        let failures = "select count(*) from provider_inbox where outcome = 'applied'
                        and convert_from(body, 'utf8')::jsonb ->> 'event' = 'payment.failure'";
        until(async || (market.hub.database.psql(failures).await.trim() == tries.to_string()).then_some(())).await;
    };
    let is_refused = async |payment: &Value| {
        market.says("faults", json!({ "fault": "card_refused", "payment": payment["id"] })).await;
        assert!(proves(payment).await.contains("FAILED"));
    };
    let sale = opens(&shop, bread).await;
    let payment = asks_for_card(market, &shop, &sale, "xendit").await;
    for tries in 1..=2 {
        is_refused(&payment).await;
        dealt_with(tries).await;
        // Whoever asks by what that told of, or later, by what is known.
        for _ in 0..2 {
            let asked = shop.get(&format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap())).await.ok();
            assert_eq!((&asked["state"], &asked["shown"]), (&json!("pending"), &payment["shown"]), "{asked}");
        }
    }
    assert!(proves(&payment).await.contains("SUCCEEDED"));
    comes_to(&shop, &payment, "paid").await;
    assert_eq!(told(&shop, &payment).await, ["pending"]);
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");

    // One that tries no other card has failed when its page is over.
    let sale = opens(&shop, bread).await;
    let payment = asks_for_card(market, &shop, &sale, "xendit").await;
    is_refused(&payment).await;
    dealt_with(3).await;
    // That it was refused is known before the page ends.
    let looked_at = "select count(*) from payment_attempts where leased_until > now() or prompted";
    until(async || (market.hub.database.psql(looked_at).await.trim() == "0").then_some(())).await;
    let page = payment["shown"]["url"].as_str().and_then(|url| url.rsplit('/').next()).expect("a page");
    market.says("expire_now", json!({ "id": page })).await;
    let ended = comes_to(&shop, &payment, "failed").await;
    assert_eq!(ended["failure"], "DECLINED_BY_ISSUER", "{ended}");
    assert!(tasks(&shop).await.is_empty());
}
