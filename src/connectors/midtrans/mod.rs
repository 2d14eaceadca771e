//! Midtrans, by its Core API v2. Amounts go there as integers and come back as texts with two zeros; what an answer means
//! stands in its body, and HTTP says 200 to almost everything. Moments are Jakarta's, and do not say so.

mod ask;
mod notice;
mod say;

use reqwest::header::HeaderMap;

use super::credentials::MidtransKeys;
use super::payment::{Charge, Known, KnownRefund, Listing, Refund};
use super::refusal::{Again, Code, Refusal};
use super::report::{Notice, Page, Report};
use super::request::{Answer, Asked, Request};
use super::{Connector, Forged, Unable, Unreadable};

impl Connector for MidtransKeys {
    fn charge(&self, charge: &Charge) -> Result<Request, Unable> {
        ask::charge(self, charge)
    }

    fn status(&self, payment: &Known) -> Result<Request, Unable> {
        let asked = Asked::Status { reference: payment.reference.clone() };
        Ok(ask::about(self, asked, payment, ask::STATUS))
    }

    fn cancel(&self, payment: &Known) -> Result<Request, Unable> {
        Ok(ask::about(self, Asked::Cancel, payment, ask::CANCEL))
    }

    fn expire(&self, payment: &Known) -> Result<Request, Unable> {
        Ok(ask::about(self, Asked::Expire, payment, ask::EXPIRE))
    }

    fn capture(&self, payment: &Known, amount_minor: i64) -> Result<Request, Unable> {
        ask::capture(self, payment, amount_minor)
    }

    fn refund(&self, refund: &Refund) -> Result<Request, Unable> {
        Ok(ask::refund(self, refund))
    }

    fn refund_status(&self, refund: &KnownRefund) -> Result<Request, Unable> {
        // Refunds stand in the payment.
        let asked = Asked::RefundStatus { key: refund.key.clone() };
        Ok(ask::about(self, asked, &refund.payment, ask::STATUS))
    }

    fn settlements(&self, _listing: &Listing) -> Result<Request, Unable> {
        // A listing is BI-SNAP's, with keys of its own. What this API tells of is one payment at a time, or one balance.
        Err(Unable::NotOffered)
    }

    fn read(&self, asked: &Asked, answer: &Answer) -> Result<Report, Refusal> {
        say::read(self, asked, answer)
    }

    fn read_page(&self, answer: &Answer) -> Result<Page, Refusal> {
        Err(Refusal::new(Again::Never, Code::Invalid, answer.status.to_string()))
    }

    fn verify(&self, _headers: &HeaderMap, body: &[u8]) -> Result<(), Forged> {
        notice::verify(&self.server_key, body)
    }

    fn notice(&self, body: &[u8]) -> Result<Notice, Unreadable> {
        notice::read(body)
    }
}

pub use notice::read as notice;
