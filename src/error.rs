//! The one error type of the library.
//!
//! A message says where, what was found and what was expected. [`Error`]'s `Display`
//! prints one level; [`Error::chain`] joins the levels with `: `, which is what the
//! command line shows.

use std::{error::Error as StdError, fmt};

/// What kind of failure it is, for callers that react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A model, side file or pipeline text is malformed.
    Input,
    /// The operating system refused to read or write.
    Io,
    /// The input is well formed, but asks for something that onnxq or the format cannot do.
    Unsupported,
    /// The run was interrupted.
    Cancelled,
}

/// An error of any part of onnxq.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result type of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`: lower case, no final stop, names in backticks.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// A malformed input.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Input, message)
    }

    /// Something that cannot be done.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A failed system call, with what was attempted.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Error {
        Error::new(ErrorKind::Io, message).with_source(source)
    }

    /// Sets the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The same error one level further down: `message` says where it happened.
    pub fn at(self, message: impl Into<String>) -> Error {
        Error {
            kind: self.kind,
            message: message.into(),
            source: Some(Box::new(self)),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// All levels on one line, joined with `: `.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text.replace('\n', " ")
    }
}

/// As [`Error::chain`], since this is what `main` prints of an error that it returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_what_people_read() {
        let e = Error::input("length 3, expected 4").at("`model.onnx`");
        assert_eq!(format!("{e:?}"), "`model.onnx`: length 3, expected 4");
    }

    #[test]
    fn chain_joins_every_level() {
        let e = Error::input("length 3, expected 4")
            .at("tensor `w`")
            .at("model.onnx");
        assert_eq!(e.chain(), "model.onnx: tensor `w`: length 3, expected 4");
        assert_eq!(e.to_string(), "model.onnx");
        assert_eq!(e.kind(), ErrorKind::Input);
    }
}
