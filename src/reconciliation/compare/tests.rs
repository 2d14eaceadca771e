use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

static NOW: LazyLock<Moment> = LazyLock::new(|| Moment::from_unix_timestamp(1_800_000_000).unwrap());
const DAY: Duration = Duration::from_secs(24 * 3600);

fn view() -> View {
    View { at: *NOW, files_until: None, whole: false }
}

/// A payment of 48,500 that was paid three days ago, and is settled since.
fn ours(payment: PaymentId) -> Ours {
    Ours {
        payment,
        there: Some(format!("py-{payment}")),
        amount_minor: 48_500,
        currency: "IDR".to_owned(),
        state: State::Paid,
        changed_at: *NOW - 3 * DAY,
        fee_minor: Some(355),
        expected: true,
        settle_by: Some(*NOW + DAY),
    }
}

/// What the provider tells of it.
fn theirs(ours: &Ours) -> Theirs {
    let there = format!("py-{}", ours.payment);
    Theirs {
        source: Source::Provider,
        id: format!("txn_{}", ours.payment),
        payment: Some(ours.payment),
        kind: RowKind::Payment,
        state: Some(State::Settled),
        reference: Some(ours.payment.to_string()),
        there: Some(there),
        currency: "IDR".to_owned(),
        amount_minor: ours.amount_minor,
        fee_minor: Some(355),
        net_minor: None,
        settled: Some(true),
        settles_at: None,
        told_at: *NOW,
    }
}

/// A line of a file about it.
fn line(ours: &Ours) -> Theirs {
    let net_minor = Some(ours.amount_minor - 355);
    Theirs { source: Source::File, id: format!("line {}", ours.payment), there: None, net_minor, ..theirs(ours) }
}

fn found(compared: &Compared) -> BTreeSet<(Class, String)> {
    compared.differences.iter().map(|it| (it.class, it.subject.clone())).collect()
}

/// Those of one payment.
fn classes(ours: &Ours, theirs: &[Theirs], view: View) -> Vec<Class> {
    let compared = compare(std::slice::from_ref(ours), theirs, view);
    compared.differences.iter().map(|it| it.class).collect()
}

fn lesson(ours: &Ours, theirs: &[Theirs]) -> Lesson {
    let compared = compare(std::slice::from_ref(ours), theirs, view());
    compared.lessons.into_iter().next().map(|(_, lesson)| lesson).unwrap_or_default()
}

#[test]
fn what_fits_does_not_differ() {
    let one = ours(PaymentId::new());
    let row = theirs(&one);
    for rows in [vec![row.clone()], vec![row.clone(), row.clone()], vec![row.clone(), line(&one)], vec![line(&one)]] {
        assert_eq!(classes(&one, &rows, view()), [], "{rows:?}");
    }
    // Nor does what nobody could read.
    let unread = Theirs { state: None, fee_minor: None, amount_minor: 1, settled: None, ..row };
    assert_eq!(classes(&one, &[unread], view()), []);
    // A list without it is no word on one that it need not have.
    let elsewhere = Ours { expected: false, ..one.clone() };
    assert_eq!(classes(&elsewhere, &[], view()), []);
    // Nor need what nobody has paid be there.
    for state in [State::Expired, State::Pending, State::Unknown, State::Refunded] {
        assert_eq!(classes(&Ours { state, ..one.clone() }, &[], view()), [], "{state}");
    }
}

#[test]
fn money_on_one_side_alone_is_told_unless_we_may_know_it_better() {
    let one = ours(PaymentId::new());
    let told = |state| vec![Theirs { state: Some(state), settled: None, ..theirs(&one) }];
    for (state, there, whole, differs) in [
        (State::Pending, State::Paid, false, true),
        (State::Unknown, State::Settled, false, true),
        (State::Expired, State::Paid, false, true),
        (State::Pending, State::Refunded, true, true),
        (State::Paid, State::Failed, false, true),
        (State::Paid, State::Expired, true, true),
        (State::Settled, State::Reversed, false, true),
        (State::PaidLate, State::Refunded, true, true),
        (State::PaidLate, State::Paid, true, false),
        (State::Pending, State::Expired, true, false),
        (State::Reversed, State::Failed, true, false),
        (State::PartiallyRefunded, State::Paid, false, false),
        // A list has the payment as it came in; only a status is all.
        (State::Refunded, State::Paid, false, false),
        (State::Refunded, State::Paid, true, true),
    ] {
        let one = Ours { state, ..one.clone() };
        let expected = if differs { vec![Class::StatusMismatch] } else { vec![] };
        assert_eq!(classes(&one, &told(there), View { whole, ..view() }), expected, "{state} {there}");
        // What changed here since it was told is not held against it, and nothing is known of it either.
        let newer = Ours { changed_at: *NOW, ..one.clone() };
        let compared = compare(&[newer], &told(there), View { whole, ..view() });
        assert_eq!(compared.differences, [], "{state} {there}");
        assert_eq!(compared.judged.iter().any(|(_, class)| *class == Class::StatusMismatch), !differs);
    }
}

#[test]
fn what_follows_is_a_look_and_never_a_word_on_money_that_came() {
    let one = ours(PaymentId::new());
    let told = |state| [Theirs { state: Some(state), settled: None, ..theirs(&one) }];
    let look = Lesson { look: true, ..Lesson::default() };
    for state in [State::Pending, State::Unknown, State::Expired, State::Canceled] {
        assert_eq!(lesson(&Ours { state, ..one.clone() }, &told(State::Paid)), look, "{state}");
        let settled = [Theirs { fee_minor: None, ..theirs(&one) }];
        assert_eq!(lesson(&Ours { state, ..one.clone() }, &settled), look, "{state}");
    }
    assert_eq!(lesson(&one, &told(State::Failed)), look);
    assert_eq!(lesson(&one, &told(State::Refunded)), look);
    let back = Lesson { taken_back: Some(State::ChargedBack), ..Lesson::default() };
    let taken = Theirs { kind: RowKind::Chargeback, id: "cb".to_owned(), ..told(State::ChargedBack)[0].clone() };
    assert_eq!(lesson(&one, &[told(State::Paid)[0].clone(), taken.clone()]), back);
    // What was paid once more by the same code, and taken back, is another's.
    let voided = Theirs { state: Some(State::Reversed), there: Some("py-2".to_owned()), ..theirs(&one) };
    assert_eq!(lesson(&one, &[Theirs { id: "2".to_owned(), settled: None, ..voided.clone() }]), look);
    let both = [told(State::Paid)[0].clone(), Theirs { id: "2".to_owned(), ..voided.clone() }];
    assert_eq!(lesson(&one, &both), look);
    let charged = Theirs { id: "cb2".to_owned(), there: Some("py-2".to_owned()), ..taken.clone() };
    let paid_twice = Theirs { state: Some(State::Paid), id: "2".to_owned(), ..voided };
    assert_eq!(lesson(&one, &[told(State::Paid)[0].clone(), paid_twice, charged]), look);
    // A file is brought by a person.
    assert_eq!(lesson(&one, &[Theirs { source: Source::File, ..taken }]), look);
}

#[test]
fn payouts_and_fees_are_learnt_from_what_fits() {
    let unsure = Ours { fee_minor: None, ..ours(PaymentId::new()) };
    let row = theirs(&unsure);
    let learnt = Lesson { settled: true, fee_minor: Some(355), ..Lesson::default() };
    assert_eq!(lesson(&unsure, std::slice::from_ref(&row)), learnt);
    assert_eq!(lesson(&unsure, &[line(&unsure)]), learnt, "by a file");
    let known = ours(unsure.payment);
    assert_eq!(lesson(&known, std::slice::from_ref(&row)), Lesson { settled: true, ..Lesson::default() });
    let settled = Ours { state: State::Settled, ..known };
    assert_eq!(lesson(&settled, std::slice::from_ref(&row)), Lesson::default());
    let other = Theirs { amount_minor: 48_000, ..row.clone() };
    assert_eq!(lesson(&unsure, &[other]), Lesson::default(), "of another amount nothing is learnt");
    let twice = Theirs { id: "txn_2".to_owned(), there: Some("py-2".to_owned()), ..row.clone() };
    assert_eq!(lesson(&unsure, &[row.clone(), twice]), Lesson::default(), "nor of one that was paid twice");
    let quarrel = Theirs { fee_minor: Some(400), ..line(&unsure) };
    assert_eq!(lesson(&unsure, &[row, quarrel]), Lesson { settled: true, ..Lesson::default() });
}

#[test]
fn a_fee_is_one_and_adds_up() {
    let one = ours(PaymentId::new());
    let fee = |fee_minor| Theirs { fee_minor, ..theirs(&one) };
    assert_eq!(classes(&one, &[fee(Some(356))], view()), [Class::FeeMismatch]);
    assert_eq!(classes(&one, &[fee(None)], view()), []);
    let unsure = Ours { fee_minor: None, ..one.clone() };
    assert_eq!(classes(&unsure, &[fee(Some(356))], view()), []);
    assert_eq!(classes(&unsure, &[fee(Some(356)), line(&one)], view()), [Class::FeeMismatch]);
    let short = Theirs { net_minor: Some(48_000), ..line(&one) };
    assert_eq!(classes(&one, &[short], view()), [Class::FeeMismatch]);
}

#[test]
fn a_payout_is_late_only_where_somebody_would_have_told_of_it() {
    let one = Ours { settle_by: Some(*NOW - DAY), ..ours(PaymentId::new()) };
    let open = Theirs { state: Some(State::Paid), settled: Some(false), ..theirs(&one) };
    assert_eq!(classes(&one, std::slice::from_ref(&open), view()), [Class::UnsettledOverdue]);
    // By the provider's own word, and some days more.
    let named = |days| Theirs { settles_at: Some(*NOW - days * DAY), ..open.clone() };
    assert_eq!(classes(&one, &[named(1)], view()), []);
    assert_eq!(classes(&one, &[named(3)], view()), [Class::UnsettledOverdue]);
    // Midtrans' status says nothing of payouts: only files do, as far as they reach.
    let silent = Theirs { settled: None, ..open.clone() };
    assert_eq!(classes(&one, std::slice::from_ref(&silent), view()), []);
    let files = |until| View { files_until: Some(until), ..view() };
    assert_eq!(classes(&one, std::slice::from_ref(&silent), files(*NOW)), [Class::UnsettledOverdue]);
    assert_eq!(classes(&one, std::slice::from_ref(&silent), files(*NOW - 2 * DAY)), []);
    assert_eq!(classes(&one, &[silent, line(&one)], files(*NOW)), [], "it is in one");
    // That it was not paid out when nobody was late yet is no word on today.
    let early = Theirs { source: Source::File, told_at: *NOW - 2 * DAY, ..open.clone() };
    assert_eq!(classes(&one, std::slice::from_ref(&early), view()), []);
    assert_eq!(classes(&one, &[early], files(*NOW)), [Class::UnsettledOverdue]);
    for state in [State::Settled, State::Refunded, State::Expired, State::PaidLate] {
        let one = Ours { state, expected: false, ..one.clone() };
        assert!(!classes(&one, &[], files(*NOW)).contains(&Class::UnsettledOverdue), "{state}");
    }
}

#[test]
fn a_refund_counts_once_whoever_tells_of_it() {
    let half = Ours { state: State::PartiallyRefunded, ..ours(PaymentId::new()) };
    let refund = Theirs {
        id: "rf".to_owned(),
        kind: RowKind::Refund,
        state: Some(State::PartiallyRefunded),
        there: Some("rfd-1".to_owned()),
        amount_minor: half.amount_minor / 2,
        fee_minor: None,
        settled: None,
        ..theirs(&half)
    };
    let by_file = |id: &str, settled| Theirs {
        source: Source::File,
        id: id.to_owned(),
        there: Some("txn_rf".to_owned()),
        settled: Some(settled),
        ..refund.clone()
    };
    let rows = vec![theirs(&half), refund.clone(), by_file("before", false), by_file("after", true)];
    assert_eq!(classes(&half, &rows, view()), []);
    // Two of the same amount are two, and with them all of it went back.
    for two in [
        [refund.clone(), Theirs { id: "rf 2".to_owned(), there: Some("rfd-2".to_owned()), ..refund.clone() }],
        [by_file("one", true), by_file("other", true)],
    ] {
        let rows = [vec![theirs(&half)], two.to_vec()].concat();
        assert_eq!(classes(&half, &rows, view()), [Class::StatusMismatch], "{rows:?}");
    }
}

#[test]
fn a_strangers_money_is_told_once_by_whomever() {
    let stranger = Theirs { payment: None, ..theirs(&ours(PaymentId::new())) };
    let notice = Theirs { source: Source::Notice, id: "inbox".to_owned(), ..stranger.clone() };
    let by_file = Theirs { source: Source::File, id: "line".to_owned(), there: None, ..stranger.clone() };
    let unpaid = Theirs {
        id: "txn_x".to_owned(),
        there: Some("py-x".to_owned()),
        state: Some(State::Failed),
        ..stranger.clone()
    };
    let payout =
        Theirs { id: "txn_y".to_owned(), there: Some("py-y".to_owned()), kind: RowKind::Other, ..stranger.clone() };
    let compared = compare(&[], &[by_file, unpaid, notice, payout, stranger.clone()], view());
    assert_eq!(found(&compared), [(Class::MissingInHub, stranger.there.clone().unwrap())].into());
    // A code on the counter is paid by many under one name.
    let two = Theirs { id: "txn_2".to_owned(), there: Some("py-2".to_owned()), ..stranger.clone() };
    assert_eq!(compare(&[], &[stranger, two], view()).differences.len(), 2);
}

/// A merchant's payments and all that is told of them; and, by what is seeded, what must be found.
fn market(payments: usize, seeded: &[(usize, Class)]) -> (Vec<Ours>, Vec<Theirs>, BTreeSet<(Class, String)>) {
    let (mut all, mut told, mut expected) = (Vec::new(), Vec::new(), BTreeSet::new());
    for at in 0..payments {
        let mut one = ours(PaymentId::new());
        one.amount_minor = 10_000 + i64::try_from(at).unwrap();
        one.fee_minor = (!at.is_multiple_of(3)).then_some(355);
        let mut rows = vec![theirs(&one)];
        if at.is_multiple_of(2) {
            rows.push(line(&one));
        }
        match at % 11 {
            // What has no money has no rows; what was refunded has a row for it.
            5 => {
                one.state = State::Expired;
                rows.clear();
            }
            7 => {
                one.state = State::Refunded;
                let refund = Theirs {
                    id: format!("rf {at}"),
                    kind: RowKind::Refund,
                    state: Some(State::PartiallyRefunded),
                    fee_minor: None,
                    ..rows[0].clone()
                };
                rows.push(refund);
            }
            9 => {
                rows = vec![Theirs {
                    state: Some(State::Paid),
                    settled: Some(false),
                    settles_at: Some(*NOW + DAY),
                    ..theirs(&one)
                }]
            }
            _ => {}
        }
        for class in seeded.iter().filter(|(place, _)| *place == at).map(|(_, class)| *class) {
            let mut subject = one.payment.to_string();
            one.state = State::Paid;
            rows = vec![theirs(&one)];
            match class {
                Class::MissingInHub => {
                    rows[0].payment = None;
                    subject = rows[0].there.clone().unwrap();
                }
                Class::MissingAtProvider => rows.clear(),
                Class::AmountMismatch => rows[0].amount_minor += 1,
                Class::StatusMismatch => one.state = State::Expired,
                Class::FeeMismatch => (one.fee_minor, rows[0].fee_minor) = (Some(355), Some(354)),
                Class::DuplicatePaid => rows.push(Theirs {
                    id: format!("txn 2 {at}"),
                    there: Some(format!("py 2 {at}")),
                    ..rows[0].clone()
                }),
                Class::UnsettledOverdue => {
                    (rows[0].state, rows[0].settled, rows[0].settles_at) =
                        (Some(State::Paid), Some(false), Some(*NOW - 3 * DAY));
                }
            }
            if class == Class::MissingInHub {
                one.state = State::Expired; // It is of none of ours, and ours has nothing to do with it.
            }
            expected.insert((class, subject));
        }
        all.push(one);
        told.extend(rows);
    }
    (all, told, expected)
}

#[test]
fn p13_all_that_differs_among_ten_thousand_is_found_and_nothing_else() {
    let seeded: Vec<(usize, Class)> = (0..700).map(|at| (at * 14 + 3, Class::ALL[at % Class::ALL.len()])).collect();
    let (all, mut told, expected) = market(10_000, &seeded);
    assert_eq!((all.len(), expected.len()), (10_000, 700));
    // Pages repeat, and nothing is in order.
    told.extend(told.iter().step_by(3).cloned().collect::<Vec<_>>());
    fastrand::Rng::with_seed(13).shuffle(&mut told);
    let compared = compare(&all, &told, view());
    assert_eq!(found(&compared), expected);
    assert_eq!(compared.differences.len(), 700, "each once");
    // And nothing at all where nothing was seeded.
    let (all, told, _) = market(10_000, &[]);
    assert_eq!(compare(&all, &told, view()).differences, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_differs_is_found_in_any_order_and_nothing_else(
        seeded in prop::collection::btree_map(0..300_usize, prop::sample::select(Class::ALL.to_vec()), 0..60),
        order in any::<u64>(),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        parts in 1..6_usize,
    ) {
        let seeded: Vec<(usize, Class)> = seeded.into_iter().collect();
        let (mut all, mut told, expected) = market(300, &seeded);
        let repeated: Vec<Theirs> = again.iter().map(|at| told[at.index(told.len())].clone()).collect();
        told.extend(repeated);
        let mut order = fastrand::Rng::with_seed(order);
        order.shuffle(&mut told);
        order.shuffle(&mut all);
        // At once, and in parts: each payment with all that is told of it.
        let mut in_parts = BTreeSet::new();
        for part in all.chunks(all.len().div_ceil(parts)) {
            let of: HashSet<PaymentId> = part.iter().map(|it| it.payment).collect();
            let rows: Vec<Theirs> = told.iter().filter(|row| row.payment.is_some_and(|it| of.contains(&it))).cloned().collect();
            in_parts.extend(found(&compare(part, &rows, view())));
        }
        let strangers: Vec<Theirs> = told.iter().filter(|row| row.payment.is_none()).cloned().collect();
        in_parts.extend(found(&compare(&[], &strangers, view())));
        prop_assert_eq!(&found(&compare(&all, &told, view())), &expected);
        prop_assert_eq!(&in_parts, &expected);
    }
}
