//! What can be allowed, and to whom. Denied unless listed.

use std::fmt;

use tillwire_channels::Role::*;
use tillwire_channels::{Role, Topic};

/// Something that a role allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Open, complete and void sales, and take payments for them.
    Sell,
    /// Give money back, and say what becomes of money that fits no sale.
    Refund,
    /// Read sales and payments.
    ReadSales,
    /// Read products and prices.
    ReadCatalog,
    /// Create and change products and prices.
    ChangeCatalog,
    /// Read levels of stock and what moved them.
    ReadStock,
    /// Receive, count and write off stock.
    MoveStock,
    /// Read outlets and registers.
    ReadOutlets,
    /// Open outlets and enrol registers.
    ManageOutlets,
    /// Read and add staff, and revoke their tokens.
    ManageStaff,
    /// Read who is at an outlet.
    ReadPresence,
    /// Read the change feed.
    ReadJournal,
    /// Add, change and remove webhooks, and read their secrets and attempts.
    ManageWebhooks,
    /// Add and change accounts at payment providers.
    ManagePayments,
    /// Take a payment for paid before its provider has said so.
    ForcePayments,
    /// Look at what could not be done, have it tried again, or drop it.
    ManageDeadLetters,
    /// Read who did what.
    ReadAudit,
    /// Register devices of one's own to be told things on.
    BeNotified,
}

impl Permission {
    /// The roles that have it.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::Sell => &[Owner, Manager, Cashier],
            // Whoever takes the money does not give it back alone.
            Self::Refund => &[Owner, Manager],
            Self::ReadSales => &[Owner, Manager, Cashier, Accountant, Auditor],
            // As over the socket.
            Self::ReadPresence => Topic::Presence.row().roles,
            // Everybody but a wall.
            Self::BeNotified => &[Owner, Manager, Cashier, Clerk, Accountant, Auditor],
            Self::ReadCatalog | Self::ReadStock | Self::ReadOutlets | Self::ReadJournal => Role::ALL,
            Self::ChangeCatalog | Self::ForcePayments => &[Owner, Manager],
            Self::MoveStock => &[Owner, Manager, Clerk],
            Self::ManageOutlets
            | Self::ManageStaff
            | Self::ManageWebhooks
            | Self::ManagePayments
            | Self::ManageDeadLetters => &[Owner],
            Self::ReadAudit => &[Owner, Auditor],
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sell => "sell",
            Self::Refund => "refund",
            Self::ReadSales => "read_sales",
            Self::ReadCatalog => "read_catalog",
            Self::ChangeCatalog => "change_catalog",
            Self::ReadStock => "read_stock",
            Self::MoveStock => "move_stock",
            Self::ReadOutlets => "read_outlets",
            Self::ManageOutlets => "manage_outlets",
            Self::ManageStaff => "manage_staff",
            Self::ReadPresence => "read_presence",
            Self::ReadJournal => "read_journal",
            Self::ManageWebhooks => "manage_webhooks",
            Self::ManagePayments => "manage_payments",
            Self::ForcePayments => "force_payments",
            Self::ManageDeadLetters => "manage_dead_letters",
            Self::ReadAudit => "read_audit",
            Self::BeNotified => "be_notified",
        })
    }
}
