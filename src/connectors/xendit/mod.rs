//! Xendit, by its Payments API v3, and by its sessions where a card is entered. Amounts are numbers, moments are UTC, HTTP's
//! status means what it says. There is no call for an expiry: what is over is called off.

mod ask;
mod notice;
mod say;

use reqwest::header::HeaderMap;

use super::credentials::XenditKeys;
use super::payment::{Charge, Known, KnownRefund, Listing, Refund};
use super::refusal::Refusal;
use super::report::{Notice, Page, Report};
use super::request::{Answer, Asked, Request};
use super::{Connector, Forged, Unable, Unreadable};

impl Connector for XenditKeys {
    fn charge(&self, charge: &Charge) -> Result<Request, Unable> {
        ask::charge(self, charge)
    }

    fn status(&self, payment: &Known) -> Result<Request, Unable> {
        Ok(ask::status(self, payment))
    }

    fn cancel(&self, payment: &Known) -> Result<Request, Unable> {
        ask::cancel(self, Asked::Cancel, payment)
    }

    fn expire(&self, payment: &Known) -> Result<Request, Unable> {
        ask::cancel(self, Asked::Expire, payment)
    }

    fn capture(&self, payment: &Known, amount_minor: i64) -> Result<Request, Unable> {
        ask::capture(self, payment, amount_minor)
    }

    fn refund(&self, refund: &Refund) -> Result<Request, Unable> {
        ask::refund(self, refund)
    }

    fn refund_status(&self, refund: &KnownRefund) -> Result<Request, Unable> {
        ask::refund_status(self, refund)
    }

    fn settlements(&self, listing: &Listing) -> Result<Request, Unable> {
        ask::settlements(self, listing)
    }

    fn read(&self, asked: &Asked, answer: &Answer) -> Result<Report, Refusal> {
        say::read(self, asked, answer)
    }

    fn read_page(&self, answer: &Answer) -> Result<Page, Refusal> {
        say::page(self, answer)
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Forged> {
        notice::verify(&self.callback_tokens, headers, body)
    }

    fn notice(&self, body: &[u8]) -> Result<Notice, Unreadable> {
        notice::read(body)
    }
}

pub use notice::read as notice;
pub use say::is_a_banks;
