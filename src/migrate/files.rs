//! The files of the schema, embedded and checksummed.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A numbered file of `migrations/`: tables, indexes, data moves, drops. A released one never changes.
#[derive(Debug)]
pub struct Migration {
    /// The file's number; migrations are applied in this order.
    pub version: i32,
    /// The file's name without its ending.
    pub name: &'static str,
    /// The file's text.
    pub sql: &'static str,
}

/// A file of `schema/`: functions, views, grants. It is applied again whenever its text has changed.
#[derive(Debug)]
pub struct Text {
    /// The file's name without its ending; texts are applied in this order.
    pub file: &'static str,
    /// The file's text.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $file:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $file, sql:
            include_str!(concat!("../../migrations/", $file, ".sql")) }),*]
    };
}

macro_rules! texts {
    ($($file:literal)*) => {
        &[$(Text { file: $file, sql: include_str!(concat!("../../schema/", $file, ".sql")) }),*]
    };
}

/// All migrations that this program knows.
pub const MIGRATIONS: &[Migration] = migrations![1 "0001_tables"];

/// All texts that this program knows.
pub const TEXTS: &[Text] = texts![
    "10_checks" "15_ids"
    "20_enqueue" "21_enqueue_batch"
    "30_claim" "31_settle" "32_complete" "33_fail" "34_release"
    "40_worker"
    "50_jobs" "51_queues" "52_workers" "53_list" "55_admin"
    "60_maintenance"
    "70_controller" "71_schedules" "72_catalog"
    "80_metrics"
    "90_grants"
];

/// Names the texts of this program; `rowlock.metrics_v1` says the same of those in the database.
///
/// ```
/// assert_eq!(rowlock::migrate::text_digest().len(), 64);
/// ```
#[must_use]
pub fn text_digest() -> String {
    let lines: Vec<String> = TEXTS.iter().map(|t| format!("{} {}", t.file, checksum(t.sql))).collect();
    checksum(&lines.join("\n"))
}

/// The release as one number, in which a later one is larger, as `rowlock.metrics_v1` tells it.
///
/// ```
/// assert!(rowlock::migrate::release_number() > 0.0);
/// ```
#[must_use]
pub fn release_number() -> f64 {
    release().iter().fold(0.0, |sum, n| sum * 1000.0 + f64::from(*n))
}

/// The numbers of this program's release; a text is never replaced by that of an earlier release.
pub(super) fn release() -> Vec<i32> {
    let numbers = env!("CARGO_PKG_VERSION").split(['-', '+']).next().unwrap_or_default();
    numbers.split('.').filter_map(|n| n.parse().ok()).collect()
}

pub(super) fn text_name(file: &str) -> String {
    format!("schema/{file}")
}

/// As `sha256sum` prints it.
pub(super) fn checksum(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
