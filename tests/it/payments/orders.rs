//! P2: in whatever order a payment is told of, however often and by however many at once, it is done once.

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use sqlx::{Connection as _, PgConnection};
use tillwire::commerce::payments::{self, NewAttempt, Seen, State};
use tillwire::commerce::sales::{self, Draft, DraftLine};
use tillwire::error::Error;
use tillwire::journal::{Caller, Journal, MerchantTx, Pools};
use tillwire_channels::event::PaymentShown;
use tillwire_channels::{MerchantId, Moment, Quantity, StaffId, VariantId};
use tillwire_simulators::midtrans_signature;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::*;
use crate::support::hub::TestHub;

/// What is heard of a payment: where it stands, and whether that is the answer to a question.
type Word = (State, bool);

/// Four words that are told of a payment, and where they lead: in every order to one end, but where money meets an end without
/// it. There it counts which was known first.
struct Way {
    words: [Word; 4],
    ends: &'static [State],
}

const WAYS: [Way; 7] = {
    use State::*;
    [
        Way { words: [(Pending, true), (Paid, false), (Paid, true), (Settled, true)], ends: &[Settled] },
        Way { words: [(Unknown, false), (Pending, true), (Paid, true), (Settled, true)], ends: &[Settled] },
        Way { words: [(Pending, true), (Authorized, true), (Paid, true), (Settled, true)], ends: &[Settled] },
        Way { words: [(Pending, true), (Paid, true), (Settled, true), (ChargedBack, true)], ends: &[ChargedBack] },
        Way { words: [(Pending, true), (Paid, true), (Paid, false), (Reversed, true)], ends: &[Reversed] },
        Way { words: [(Pending, true), (Failed, true), (Paid, false), (Settled, true)], ends: &[Settled, PaidLate] },
        Way { words: [(Pending, true), (Expired, true), (Paid, true), (Settled, true)], ends: &[Settled, PaidLate] },
    ]
};

/// How many tell of a payment at once, and of how many payments.
const TELLERS: usize = 8;
const AT_ONCE: usize = 4;
/// How many runs one merchant has before what became of them is looked over, and how many are begun in one transaction.
const OF_ONE: usize = 100;
const BEGUN_AT_ONCE: usize = 25;
const PRICE_MINOR: i64 = 48_500;

/// A payment that was begun, and is told of.
#[derive(Clone, Copy)]
struct Begun {
    merchant: MerchantId,
    sale: SaleId,
    payment: PaymentId,
}

/// What became of one, wherever it is written.
#[derive(Debug, sqlx::FromRow)]
struct Became {
    payment: Uuid,
    state: String,
    sale: String,
    total: i64,
    paid: i64,
    recorded: i64,
    captured: i64,
    completed: i64,
    moved: i64,
    tasks: String,
}

/// A hub of which the database alone is told of payments: no node of it can open an account, so none asks anybody.
struct Ledgers {
    hub: TestHub,
    journal: Journal,
}

impl Ledgers {
    async fn open() -> Self {
        let hub = TestHub::start().await;
        let (app, feed) = (hub.database.url("tillwire_app"), hub.database.url("tillwire_feed"));
        let pools = Pools::open(&app, &feed, u32::try_from(AT_ONCE * TELLERS).unwrap()).unwrap();
        let (announce, _) = tokio::sync::mpsc::channel(8);
        Self { hub, journal: Journal::new(pools, announce, TaskTracker::new()) }
    }

    /// A merchant with so many open sales, and so many payments begun for all that is due of each.
    async fn begin(&self, sales: usize, of_each: usize) -> Vec<Begun> {
        let shop = self.hub.merchant("Toko Roti").await;
        let bread = VariantId(shop.stocked("roti", PRICE_MINOR, &sales.to_string()).await.parse().unwrap());
        let (merchant, outlet, register, account) = (shop.merchant, shop.outlet, shop.register, Uuid::new_v4());
        let kept = format!(
            "insert into data_keys (merchant_id, key_id, vault_key, sealed)
             values ('{merchant}', '{account}', repeat('0', 16), convert_to(repeat('0', 61), 'UTF8'));
             insert into provider_accounts (merchant_id, account_id, provider, mode, label, merchant_there, enabled, sealed,
                                            data_key, key_ends)
             values ('{merchant}', '{account}', 'midtrans', 'test', '', 'G1', true, convert_to(repeat('0', 30), 'UTF8'),
                     '{account}', '')"
        );
        self.hub.database.psql(&kept).await;
        let caller = Caller { merchant, staff: StaffId::new(), issued_at: Moment::now_utc(), trace: None };
        let opened: Vec<SaleId> = (0..sales).map(|_| SaleId::new()).collect();
        let begun: Vec<Begun> = opened
            .iter()
            .flat_map(|sale| (0..of_each).map(|_| Begun { merchant, sale: *sale, payment: PaymentId::new() }))
            .collect();
        for some in begun.chunks(BEGUN_AT_ONCE * of_each) {
            let some = some.to_vec();
            let beginning = self.journal.write(caller, None, 201, move |tx| {
                let some = some.clone();
                async move {
                    for these in some.chunks(of_each) {
                        let line = DraftLine {
                            variant: bread,
                            quantity: Quantity::from_thousandths(1_000).expect("one"),
                            unit_price_minor: None,
                            discount_minor: 0,
                        };
                        let draft = Draft {
                            id: these[0].sale,
                            outlet,
                            register,
                            number: None,
                            occurred_at: None,
                            open_for: Some(time::Duration::minutes(30)),
                            lines: vec![line],
                            discount_minor: 0,
                            tenders: Vec::new(),
                        };
                        sales::sell(tx, draft).await?;
                        for it in these {
                            begin(tx, it, account).await?;
                        }
                    }
                    Ok(())
                }
                .boxed()
            });
            beginning.await.expect("payments that are begun");
        }
        begun
    }

    /// Says a word of a payment, as whoever has asked or was told does: once more if the database was too busy.
    async fn tell(&self, of: Begun, (state, asked): Word) {
        let shown = (state == State::Pending).then(|| PaymentShown::Qr { text: "a code".to_owned() });
        let currency = Some("IDR".to_owned());
        let seen =
            Seen { state: Some(state), asked, amount_minor: Some(PRICE_MINOR), currency, shown, ..Seen::default() };
        loop {
            let seen = seen.clone();
            let telling = self.journal.act(of.merchant, move |tx| {
                let seen = seen.clone();
                async move { payments::apply(tx, of.payment, &seen, None).await }.boxed()
            });
            match telling.await {
                Ok(_) => return,
                Err(error) if error.is_passing() => {}
                Err(error) => panic!("{state} is not written down: {error:?}"),
            }
        }
    }

    /// What became of a merchant's payments, in the database and in the journal.
    async fn became(&self, merchant: MerchantId) -> Vec<Became> {
        let mut sql = PgConnection::connect(&self.hub.database.url("postgres")).await.expect("a superuser");
        sqlx::query_as(
            "with told as materialized (
                 select e ->> 'type' as type, e -> 'data' ->> 'sale' as sale, e -> 'data' ->> 'payment' as payment
                 from journal_entries, json_array_elements(events::json) e where merchant_id = $1
             )
             select a.payment_id as payment, a.state, s.state as sale, s.total_minor as total,
                    (select coalesce(sum(amount_minor), 0)::bigint from payments p
                     where p.merchant_id = $1 and p.sale_id = a.sale_id) as paid,
                    (select count(*) from payments p where p.merchant_id = $1 and p.payment_id = a.payment_id) as recorded,
                    (select count(*) from told where type = 'payment.captured' and payment = a.payment_id::text) as captured,
                    (select count(*) from told where type = 'sale.completed' and told.sale = a.sale_id::text) as completed,
                    (select coalesce(-sum(quantity), 0)::bigint from stock_moves m
                     where m.merchant_id = $1 and document_id = a.sale_id) as moved,
                    coalesce((select string_agg(kind, ' ' order by kind) from payment_tasks t
                              where t.merchant_id = $1 and t.payment_id = a.payment_id), '') as tasks
             from payment_attempts a join sales s using (merchant_id, sale_id) where a.merchant_id = $1",
        )
        .bind(merchant.0)
        .fetch_all(&mut sql)
        .await
        .expect("what became of them")
    }

    /// So many random runs: four words of a way, each once to three times, in a random order, by eight at once. Answers how many
    /// came to each end.
    async fn runs(&self, runs: usize) {
        for round in 0..runs.div_ceil(OF_ONE) {
            let seed = fastrand::u64(..);
            let mut draw = fastrand::Rng::with_seed(seed);
            let begun = self.begin(OF_ONE.min(runs - round * OF_ONE), 1).await;
            let told: Vec<(Begun, &Way, Vec<Word>)> = begun
                .iter()
                .map(|of| {
                    let way = &WAYS[draw.usize(..WAYS.len())];
                    let mut words: Vec<Word> =
                        way.words.iter().flat_map(|word| vec![*word; draw.usize(1..=3)]).collect();
                    draw.shuffle(&mut words);
                    (*of, way, words)
                })
                .collect();
            let telling = stream::iter(&told).for_each_concurrent(AT_ONCE, |(of, _, words)| async move {
                let tellers = (0..TELLERS.min(words.len())).map(|teller| async move {
                    for word in words.iter().skip(teller).step_by(TELLERS) {
                        self.tell(*of, *word).await;
                    }
                });
                join_all(tellers).await;
            });
            telling.await;
            let became = self.became(begun[0].merchant).await;
            assert_eq!(became.len(), begun.len());
            for (of, way, words) in &told {
                let it = became.iter().find(|it| it.payment == of.payment.0).expect("what became of it");
                let is_an_end = way.ends.iter().any(|end| end.as_str() == it.state);
                assert!(is_an_end && adds_up_once(it), "{it:?} of {words:?}, with the seed {seed}");
            }
        }
        self.hub.ledgers_add_up().await;
    }
}

/// Writes down a payment for all that is due. That of others for the same nobody knows.
async fn begin(tx: &mut MerchantTx, it: &Begun, account: Uuid) -> Result<(), Error> {
    sqlx::query("update payment_attempts set state = 'unknown' where merchant_id = $1 and sale_id = $2")
        .bind(it.merchant.0)
        .bind(it.sale.0)
        .execute(tx.sql())
        .await?;
    let sale = sales::lock(tx, it.sale).await?;
    let new = NewAttempt {
        payment: it.payment,
        account,
        provider: "midtrans",
        mode: "test",
        method: "qris",
        bank: None,
        amount_minor: None,
        expires_in_seconds: None,
        life: time::Duration::hours(1),
        hold: false,
    };
    payments::begin(tx, &sale, &new, &|_| Ok(())).await?;
    Ok(())
}

/// Whether all that follows from a payment was done once, and nothing that does not.
fn adds_up_once(it: &Became) -> bool {
    let found = (it.sale.as_str(), it.paid, it.recorded, it.captured, it.completed, it.moved, it.tasks.as_str());
    match it.state.as_str() {
        "paid_late" => found == ("open", 0, 0, 0, 0, 0, "paid_late"),
        // What was gone when it was first heard of pays nothing.
        "reversed" | "charged_back" if it.recorded == 0 => found == ("open", 0, 0, 0, 0, 0, it.state.as_str()),
        "reversed" | "charged_back" => found == ("completed", it.total, 1, 1, 1, 1, it.state.as_str()),
        _ => found == ("completed", it.total, 1, 1, 1, 1, ""),
    }
}

/// Every order of four.
fn orders() -> Vec<[usize; 4]> {
    let all = (0..256).map(|it| [it / 64, it / 16 % 4, it / 4 % 4, it % 4]);
    all.filter(|order| (0..4).all(|place| order.contains(&place))).collect()
}

#[tokio::test]
async fn p2_in_every_order_what_is_heard_of_a_payment_leads_to_one_end() {
    let ledgers = Ledgers::open().await;
    let orders = orders();
    assert_eq!(orders.len(), 24);
    for way in &WAYS {
        let begun = ledgers.begin(orders.len(), 1).await;
        let telling = stream::iter(begun.iter().zip(&orders)).for_each_concurrent(TELLERS, |(of, order)| {
            let ledgers = &ledgers;
            async move {
                for place in order {
                    ledgers.tell(*of, way.words[*place]).await;
                }
            }
        });
        telling.await;
        let became = ledgers.became(begun[0].merchant).await;
        for (of, order) in begun.iter().zip(&orders) {
            let words = order.map(|place| way.words[place].0);
            let first = |of: &[State]| words.iter().position(|word| of.contains(word));
            // If it had ended before anybody knew of money, the money is late.
            let ended = first(&[State::Failed, State::Expired]);
            let is_late = ended.is_some_and(|ended| Some(ended) < first(&[State::Paid, State::Settled]));
            let end = way.ends[usize::from(is_late)];
            let it = became.iter().find(|it| it.payment == of.payment.0).expect("what became of it");
            assert!(it.state == end.as_str() && adds_up_once(it), "{it:?} of {words:?}, and not {end}");
            let gone = first(&[State::Reversed, State::ChargedBack]);
            let was_gone = gone.is_some_and(|gone| Some(gone) < first(&[State::Paid, State::Settled]));
            assert_eq!(it.recorded == 0, is_late || was_gone, "{it:?} of {words:?}");
        }
    }
    ledgers.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn p2_eight_at_once_in_random_orders_take_each_payment_once() {
    Ledgers::open().await.runs(600).await;
}

#[tokio::test]
#[ignore = "the same for longer"]
async fn p2_ten_thousand_random_runs() {
    Ledgers::open().await.runs(10_000).await;
}

#[tokio::test]
async fn p2_of_two_payments_for_the_same_one_is_taken_and_the_other_is_late() {
    let ledgers = Ledgers::open().await;
    let begun = ledgers.begin(50, 2).await;
    let telling = stream::iter(begun.chunks(2)).for_each_concurrent(AT_ONCE, |twins| {
        let ledgers = &ledgers;
        async move {
            let words = [(State::Pending, true), (State::Paid, false), (State::Paid, true), (State::Settled, true)];
            join_all(twins.iter().flat_map(|of| words.map(|word| ledgers.tell(*of, word)))).await;
        }
    });
    telling.await;
    let became = ledgers.became(begun[0].merchant).await;
    for twins in begun.chunks(2) {
        let mut two: Vec<&Became> =
            became.iter().filter(|it| twins.iter().any(|of| of.payment.0 == it.payment)).collect();
        two.sort_by_key(|it| it.recorded);
        let [late, taken] = two[..] else { panic!("{two:?}") };
        assert!(taken.state == "settled" && adds_up_once(taken), "{two:?}");
        assert_eq!((late.state.as_str(), late.recorded, late.captured), ("paid_late", 0, 0), "{two:?}");
        assert_eq!(late.tasks, "paid_late", "{two:?}");
    }
    ledgers.hub.ledgers_add_up().await;
}

/// A notification that a provider has kept to itself, and three that are not true any more, or never were.
fn notices(provider: &str, paid: &str) -> [String; 4] {
    let body: Value = serde_json::from_str(paid).expect("JSON");
    if provider == "midtrans" {
        let field = |name: &str| body[name].as_str().expect("a text").to_owned();
        let key = format!("SB-Mid-server-{MIDTRANS_KEY}");
        [("pending", "201"), ("settlement", "200"), ("expire", "202"), ("deny", "202")].map(|(status, code)| {
            let mut body = body.clone();
            body["transaction_status"] = json!(status);
            body["status_code"] = json!(code);
            body["signature_key"] = json!(midtrans_signature(&field("order_id"), code, &field("gross_amount"), &key));
            body.to_string()
        })
    } else {
        [
            ("payment.authorization", "AUTHORIZED"),
            ("payment.capture", "SUCCEEDED"),
            ("payment.failure", "FAILED"),
            ("payment_request.expiry", "EXPIRED"),
        ]
        .map(|(event, status)| {
            let mut body = body.clone();
            body["event"] = json!(event);
            body["data"]["status"] = json!(status);
            if status != "SUCCEEDED" {
                body["data"]["captures"] = json!([]);
            }
            body.to_string()
        })
    }
}

#[tokio::test]
async fn p2_notifications_in_every_order_and_three_of_each_at_once_are_one_payment() {
    const SHOPS: usize = 8;
    // To whom all of them are one business.
    let options = Options { xendit_rate_max: Some(10_000), ..Options::default() };
    let providers = Simulators::start(options).await.expect("providers");
    let (midtrans, xendit) = (providers.midtrans_url(), providers.xendit_url());
    let market = Market::of(providers, &midtrans, &xendit).await;
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    let orders = orders();
    // A merchant asks a provider so often in a minute: each has a few of the orders.
    let shops: Vec<Shop<'_>> = stream::iter(0..SHOPS).then(|_| market.shop("Toko Roti")).collect().await;
    let selling = stream::iter(shops.iter().zip(orders.chunks(orders.len() / SHOPS)));
    let selling = selling.for_each_concurrent(AT_ONCE, |(shop, orders)| {
        let market = &market;
        async move {
            let bread = shop.stocked("roti", 48_500, "10").await;
            let accounts = shop.get("/v1/provider-accounts").await.ok();
            for (provider, order) in
                ["midtrans", "xendit"].iter().flat_map(|it| orders.iter().map(move |order| (*it, order)))
            {
                let account =
                    accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
                let path = account["webhook_path"].as_str().unwrap();
                let sale = opens(shop, &bread).await;
                let payment = asks(shop, &sale, qris(provider)).await.created();
                market.pays(&payment).await;
                let kept = market.deliveries(&payment).await;
                let paid = kept.iter().find(|it| it["event"] == "settlement" || it["event"] == "payment.capture");
                let notices = notices(provider, paid.unwrap()["body"].as_str().unwrap());
                for place in order {
                    let token = [("x-callback-token", XENDIT_TOKEN)];
                    let thrice = (0..3).map(|_| market.notifies(path, &token, &notices[*place]));
                    assert_eq!(join_all(thrice).await, [200; 3], "{order:?}");
                }
                comes_to(shop, &payment, "paid").await;
                let sold = sale_of(shop, &sale).await;
                let tenders = sold["tenders"].as_array().map(Vec::len);
                assert_eq!((&sold["state"], tenders), (&json!("completed"), Some(1)), "{order:?}");
            }
            assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 2 * orders.len(), "each once");
            assert!(tasks(shop).await.is_empty(), "{:?}", tasks(shop).await);
        }
    });
    selling.await;
    adds_up(&market.hub.database).await;
    let outcomes = "select string_agg(distinct outcome, ' ' order by outcome) || ' ' || count(*) from provider_inbox";
    assert_eq!(
        market.hub.database.psql(outcomes).await.trim(),
        "applied duplicate 576",
        "two of three are repetitions"
    );
}
