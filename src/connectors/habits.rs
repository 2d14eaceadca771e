//! How each provider goes about things, as far as whoever deals with it has to know: so that nobody else need know it by name.

use super::credentials::Provider;

/// What one provider does in its own way, whatever is paid how.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Whether it finds a payment by our reference, and takes each reference once: then one that it does not know was never
    /// asked for, and may be asked for. If not, what was sent may still arrive, and is only looked for.
    pub takes_references_once: bool,
    /// Whether all refunds of a payment stand in what it says of that. If not, they are another question.
    pub tells_refunds_with_payments: bool,
    /// Whether it lists what was moved, and when that is paid out. If not, one payment after the other is asked for.
    pub lists_settlements: bool,
    /// Whether a notification that proves genuine proves as well that a payment was made. If not, only who has sent it.
    pub signs_payments: bool,
    /// Whether a card is entered in the browser, which is given a token for it. If not, there is a page.
    pub takes_card_tokens: bool,
    /// Whether a card's money goes back only when it has been settled.
    pub refunds_settled_cards_alone: bool,
    /// What its sandbox sends in place of a QR code's text, if it sends none that an app could pay.
    pub sandbox_code: Option<&'static str>,
}

const MIDTRANS: Habits = Habits {
    takes_references_once: true,
    tells_refunds_with_payments: true,
    lists_settlements: false,
    signs_payments: true,
    takes_card_tokens: true,
    refunds_settled_cards_alone: true,
    sandbox_code: None,
};

const XENDIT: Habits = Habits {
    takes_references_once: false,
    tells_refunds_with_payments: false,
    lists_settlements: true,
    signs_payments: false,
    takes_card_tokens: false,
    refunds_settled_cards_alone: false,
    sandbox_code: Some("some-random-qr-string"),
};

pub const fn habits(provider: Provider) -> Habits {
    match provider {
        Provider::Midtrans => MIDTRANS,
        Provider::Xendit => XENDIT,
    }
}
