//! One event of each type: examples for the documents, and what tests hold against them.

use time::macros::datetime;
use uuid::Uuid;

use crate::Moment;
use crate::envelope::{Envelope, Stored};
use crate::event::{
    AccessRevoked, AlertRaised, Event, Method, OutletOpened, PaymentCaptured, PaymentChanged, PaymentForced,
    PaymentShown, PaymentState, ProductChanged, RefundChanged, RefundState, RegisterEnrolled, ReservedLevel,
    SaleCompleted, SaleLine, SaleOpened, SaleVoided, Severity, StockChanged, StockReason, StockReserved, Tender,
    VariantState, VoidReason,
};
use crate::ids::{EndpointId, OutletId, PaymentId, ProductId, RefundId, RegisterId, SaleId, StaffId, VariantId};
use crate::position::Position;
use crate::quantity::Quantity;
use crate::view::View;

const COMPLETED_AT: Moment = datetime!(2026-03-14 09:26:53 UTC);
const EXPIRES_AT: Moment = datetime!(2026-03-14 09:56:53 UTC);
const RECORDED_AT: Moment = datetime!(2026-03-14 09:26:53.118 UTC);

const OUTLET: OutletId = OutletId(id(1));
const REGISTER: RegisterId = RegisterId(id(2));
const STAFF: StaffId = StaffId(id(3));
const PRODUCT: ProductId = ProductId(id(4));
const VARIANT: VariantId = VariantId(id(5));
const SALE: SaleId = SaleId(id(6));
const PAYMENT: PaymentId = PaymentId(id(7));
const WEBHOOK: EndpointId = EndpointId(id(8));
const REFUND: RefundId = RefundId(id(9));

/// An id that reads like the real ones and never changes.
const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0196_0000_0000_7000_8000_0000_0000_0000 | number)
}

/// Where a sample stands in its journal.
pub const POSITION: Position = Position { seq: 1041, event: Some(1), tag: [0x9f, 0x3a, 0xc2, 0xd1] };

/// One event of each type, in the order of [`Event`].
pub fn events() -> Vec<Event> {
    vec![
        Event::SaleOpened(opened()),
        Event::SaleCompleted(sale()),
        Event::SaleVoided(SaleVoided {
            sale: SALE,
            number: "JKT1-K1-000172".into(),
            outlet: OUTLET,
            register: REGISTER,
            currency: "IDR".into(),
            total_minor: 45_000,
            reason: VoidReason::Voided,
            note: Some("Changed her mind".into()),
        }),
        Event::PaymentCaptured(PaymentCaptured {
            payment: PAYMENT,
            sale: SALE,
            outlet: OUTLET,
            register: REGISTER,
            method: Method::Cash,
            currency: "IDR".into(),
            amount_minor: 45_000,
            tendered_minor: 50_000,
            change_minor: 5_000,
            due_minor: Some(0),
        }),
        Event::PaymentChanged(PaymentChanged {
            payment: PAYMENT,
            sale: SALE,
            outlet: OUTLET,
            register: REGISTER,
            provider: "midtrans".into(),
            method: "bank_transfer".into(),
            bank: Some("bni".into()),
            currency: "IDR".into(),
            amount_minor: 45_000,
            state: PaymentState::Pending,
            shown: Some(PaymentShown::VirtualAccount { bank: "bni".into(), number: "9888552010000088".into() }),
            expires_at: EXPIRES_AT,
            failure: None,
            forced: Some(PaymentForced {
                by: STAFF,
                at: COMPLETED_AT,
                reason: "The customer's app says that it is done".into(),
            }),
            accepted_for: None,
        }),
        Event::RefundChanged(RefundChanged {
            refund: REFUND,
            payment: PAYMENT,
            sale: SALE,
            outlet: OUTLET,
            register: REGISTER,
            currency: "IDR".into(),
            amount_minor: 8_500,
            state: RefundState::Succeeded,
            failure: None,
            refunded_minor: 8_500,
        }),
        Event::StockChanged(StockChanged {
            outlet: OUTLET,
            variant: VARIANT,
            sku: "KOPI-SUSU".into(),
            name: "Kopi susu".into(),
            on_hand: units(38),
            change: units(-2),
            reason: StockReason::Sale,
            document: Some(SALE.0),
        }),
        Event::StockReserved(StockReserved {
            outlet: OUTLET,
            sale: SALE,
            levels: vec![ReservedLevel {
                variant: VARIANT,
                sku: "KOPI-SUSU".into(),
                name: "Kopi susu".into(),
                reserved: units(3),
                change: units(2),
            }],
        }),
        Event::ProductChanged(ProductChanged {
            product: PRODUCT,
            name: "Kopi susu".into(),
            department: Some("Drinks".into()),
            category: Some("Coffee".into()),
            brand: None,
            package: None,
            currency: "IDR".into(),
            active: true,
            version: 2,
            variants: vec![VariantState {
                variant: VARIANT,
                sku: "KOPI-SUSU".into(),
                name: None,
                price_minor: 25_000,
                barcodes: vec!["8991234567897".into()],
            }],
        }),
        Event::OutletOpened(OutletOpened {
            outlet: OUTLET,
            code: "JKT1".into(),
            name: "Corner Bakery Menteng".into(),
            time_zone: "Asia/Jakarta".into(),
        }),
        Event::RegisterEnrolled(RegisterEnrolled {
            outlet: OUTLET,
            register: REGISTER,
            code: "K1".into(),
            name: "Front till".into(),
        }),
        Event::AccessRevoked(AccessRevoked { staff: STAFF, issued_until: COMPLETED_AT }),
        Event::AlertRaised(AlertRaised {
            alert: "webhook_disabled".into(),
            severity: Severity::Warning,
            title: "A webhook is disabled".into(),
            detail: "\"Books\" answered 410, so it is told nothing more until somebody enables it again.".into(),
            subject: Some(WEBHOOK.to_string()),
            outlet: None,
            register: None,
        }),
    ]
}

fn opened() -> SaleOpened {
    let SaleCompleted { sale, number, outlet, register, currency, lines, .. } = sale();
    SaleOpened {
        sale,
        number,
        outlet,
        register,
        currency,
        lines,
        subtotal_minor: 50_000,
        discount_minor: 5_000,
        total_minor: 45_000,
        tenders: Vec::new(),
        due_minor: 45_000,
        expires_at: EXPIRES_AT,
    }
}

fn sale() -> SaleCompleted {
    SaleCompleted {
        sale: SALE,
        number: "JKT1-K1-000172".into(),
        outlet: OUTLET,
        register: REGISTER,
        business_date: "2026-03-14".into(),
        currency: "IDR".into(),
        lines: vec![SaleLine {
            line: 1,
            variant: VARIANT,
            sku: "KOPI-SUSU".into(),
            name: "Kopi susu".into(),
            quantity: units(2),
            unit_price_minor: 25_000,
            discount_minor: 5_000,
            total_minor: 45_000,
        }],
        subtotal_minor: 50_000,
        discount_minor: 5_000,
        total_minor: 45_000,
        tenders: vec![Tender {
            payment: PAYMENT,
            method: Method::Cash,
            amount_minor: 45_000,
            tendered_minor: 50_000,
            change_minor: 5_000,
        }],
    }
}

fn units(units: i64) -> Quantity {
    Quantity::from_thousandths(units * 1000).expect("a sample's quantity is small")
}

/// The sample as its entry stores it.
pub fn stored(event: &Event) -> Stored {
    Stored::new(event, COMPLETED_AT, Some(STAFF)).expect("the contract's own types are JSON")
}

/// The stored sample as a view sees it.
pub fn envelope(stored: &Stored, view: View) -> Envelope<'_> {
    stored.envelope(view, POSITION.seq, (1, 1), RECORDED_AT).expect("what was just stored is JSON")
}
