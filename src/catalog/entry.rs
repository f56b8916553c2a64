//! The common side of all entries of a file.

/// An entry of a file: it has a name, and checks that concern several of its keys.
pub(super) trait Entry {
    const WORD: &'static str;
    fn name(&self) -> &str;
    fn check(&self) -> Result<(), String>;
}
