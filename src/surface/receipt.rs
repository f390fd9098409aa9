//! Receipts as JSON, for all surfaces.

use serde::Serialize;

use crate::hub::{NoReceipt, Receipt};

/// The receipt of a message, or the reason for which there is none.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
pub(super) enum ReceiptJson {
    Counts { matched: u32, sent: u32, queued: u32, dropped: u32, closed: u32 },
    Missing { error: &'static str },
}

impl From<Result<Receipt, NoReceipt>> for ReceiptJson {
    fn from(outcome: Result<Receipt, NoReceipt>) -> Self {
        match outcome {
            Ok(Receipt { matched, sent, queued, dropped, closed }) => {
                ReceiptJson::Counts { matched, sent, queued, dropped, closed }
            }
            Err(why) => ReceiptJson::Missing { error: why.name() },
        }
    }
}
