//! From PTX text to decoded operations: `parse` reads statements without knowing any instruction, `lower` turns them
//! into operations and rejects every form it does not know, `cfg` finds where diverged lanes meet again.

pub mod ast;
pub mod cfg;
pub mod forms;
pub mod lower;
pub mod parse;

/// Why a module was refused: the line of the PTX text and a sentence that names the opcode or the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Line of the PTX text, counted from 1.
    pub line: u32,
    /// What was found and what would be accepted.
    pub message: String,
    /// What kind of reason it is.
    pub cause: Cause,
}

/// Kinds of reasons that a module is refused for, which the driver API tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The text is wrong, or nothing that the emulator knows.
    Text,
    /// The text is of a PTX version that only a newer driver knows.
    Version,
    /// There is no device memory for a variable.
    Memory,
}

impl LoadError {
    /// An error at `line`.
    pub fn new(line: u32, message: impl Into<String>) -> Self {
        LoadError { line, message: message.into(), cause: Cause::Text }
    }
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LoadError {}
