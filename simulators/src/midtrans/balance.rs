//! `GET /v1/balance/mutation`: what came in between two times, and what of it is ours to use.

use serde_json::{Value, json};

use super::transaction::{Transaction, net};
use crate::account::MidtransAccount;
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::world::World;

pub fn mutation(world: &World, account: &MidtransAccount, call: &Call) -> Reply {
    let mut problems = Vec::new();
    let mut said = |name: &str| {
        let value = call.parameter(name).filter(|it| !it.is_empty());
        if value.is_none() {
            problems.push(format!("{name} must not be empty"));
        }
        value.unwrap_or_default().to_owned()
    };
    let (currency, start, end) = (said("currency"), said("start_time"), said("end_time"));
    if problems.is_empty() && currency != "IDR" {
        problems.push("currency is not supported".into());
    }
    let times = (Moment::parse(&start), Moment::parse(&end));
    let (Some(from), Some(to)) = times else {
        if problems.is_empty() {
            problems.push("start_time and end_time must be ISO 8601 with an offset".into());
        }
        return wrong(&problems);
    };
    if from > to {
        problems.push("start_time must be before end_time".into());
    }
    if !problems.is_empty() {
        return wrong(&problems);
    }
    let of_the_account = || world.midtrans.all().filter(|it| it.merchant_id == account.merchant_id);
    let (opening, closing) = (Balance::of(of_the_account(), from), Balance::of(of_the_account(), to));
    let mut body = json!({ "currency": currency, "start_time": start, "end_time": end });
    let mut payin = json!({ "source": "payin" });
    let mut iris = json!({ "source": "iris" });
    for (name, balance) in [("opening", &opening), ("closing", &closing)] {
        balance.write(&mut body, name);
        balance.write(&mut payin, name);
        Balance::default().write(&mut iris, name);
    }
    body["wallets"] = json!([payin, iris]);
    Reply::json(200, &body)
}

fn wrong(problems: &[String]) -> Reply {
    Reply::json(400, &json!({ "error_messages": problems }))
}

#[derive(Default)]
struct Balance {
    effective: i64,
    pending: i64,
}

impl Balance {
    /// As it was at that time: what had come in, less what had gone back.
    fn of<'a>(transactions: impl Iterator<Item = &'a Transaction>, at: Moment) -> Self {
        let mut all = Self::default();
        for transaction in transactions.filter(|it| it.settled.is_some_and(|settled| settled <= at)) {
            let gone: i64 = transaction.refunds.iter().filter(|it| it.created <= at).map(|it| it.amount).sum();
            let left = net(transaction) - gone - transaction.charged_back;
            match transaction.available {
                Some(available) if available <= at => all.effective += left,
                _ => all.pending += left,
            }
        }
        all
    }

    fn write(&self, to: &mut Value, name: &str) {
        to[format!("{name}_balance_effective")] = self.effective.into();
        to[format!("{name}_balance_pending")] = self.pending.into();
        to[format!("{name}_balance_overall")] = (self.effective + self.pending).into();
    }
}
