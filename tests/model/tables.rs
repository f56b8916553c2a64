//! What the tests that reset a database between their cases share.

/// Every table that calls leave something in, but for the catalogue.
pub const TABLES: [&str; 15] = [
    "ready",
    "scheduled",
    "unique_key",
    "worker",
    "lease",
    "cancel_request",
    "subscription",
    "history",
    "tally",
    "total",
    "total_reason",
    "total_time",
    "pace",
    "label",
    "lane",
];
