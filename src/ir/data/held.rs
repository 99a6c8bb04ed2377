//! A constant that several recipes read at about the same time, in memory for so long.
//!
//! Reading a file by position copies from the system's cache, which costs about as much as quantizing does.
//! A thread that has several recipes of one small constant to compute holds it: it is copied once, and what
//! reads it finds it where it lies.

use std::{cell::RefCell, rc::Rc};

use super::{Data, DataIdentity};
use crate::error::Result;

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    /// The memory of the last one, to be used again.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a thread holds.
struct Held {
    key: DataIdentity,
    bytes: Rc<Vec<u8>>,
}

/// Runs `work`, which finds all of `data` in memory where it reads it on this thread.
///
/// # Errors
/// As [`Data::read_at`], and those of `work`.
pub(crate) fn holding<R>(data: &Data, work: impl FnOnce() -> Result<R>) -> Result<R> {
    let mut bytes = SPARE.take();
    bytes.resize(data.len() as usize, 0);
    data.read_at(0, &mut bytes)?;
    let held = Held {
        key: data.identity(),
        bytes: Rc::new(bytes),
    };
    // A thread that waits for others may do work of another constant meanwhile.
    let before = HELD.replace(Some(held));
    let done = work();
    if let Some(held) = HELD.replace(before)
        && let Ok(bytes) = Rc::try_unwrap(held.bytes)
    {
        SPARE.set(bytes);
    }
    done
}

/// All bytes of `data`, when this thread holds them.
pub(super) fn held(data: &Data) -> Option<Rc<Vec<u8>>> {
    HELD.with_borrow(|held| {
        let held = held.as_ref().filter(|h| h.key == data.identity());
        held.map(|h| h.bytes.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use super::*;
    use crate::ir::SourceFile;

    /// Five ranges of ten bytes, and a file that can be emptied.
    fn ranges() -> (tempfile::NamedTempFile, Vec<Data>) {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(&(0..50).collect::<Vec<u8>>()).unwrap();
        let file = Arc::new(SourceFile::open(named.path()).unwrap());
        let range = |i: u64| Data::File {
            file: file.clone(),
            offset: 10 * i,
            len: 10,
        };
        (named, (0..5).map(range).collect())
    }

    fn read(data: &Data) -> Result<Vec<u8>> {
        data.with_range(2, 3, <[u8]>::to_vec)
    }

    #[test]
    fn what_is_held_is_not_read_again() {
        let (named, ranges) = ranges();
        holding(&ranges[1], || {
            holding(&ranges[3], || {
                named.as_file().set_len(0).unwrap();
                assert_eq!(read(&ranges[3]).unwrap(), [32, 33, 34]);
                // Another is read from the file.
                assert!(read(&ranges[2]).is_err());
                Ok(())
            })?;
            assert_eq!(read(&ranges[1]).unwrap(), [12, 13, 14]);
            assert!(read(&ranges[3]).is_err());
            Ok(())
        })
        .unwrap();
        assert!(read(&ranges[1]).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_not_held() {
        let (named, ranges) = ranges();
        named.as_file().set_len(15).unwrap();
        let held = holding(&ranges[1], || Ok(()));
        assert!(held.unwrap_err().chain().contains("bytes 10..20"));
        assert_eq!(read(&ranges[0]).unwrap(), [2, 3, 4]);
    }
}
