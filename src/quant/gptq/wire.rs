//! Statistics as bytes, little-endian. Every number that is read is finite.

use super::statistics::StatisticsError;

/// Writes; begins with the eight bytes that say what it is.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(what: &[u8; 8]) -> Self {
        Self(what.to_vec())
    }

    pub(super) fn u64(&mut self, x: u64) {
        self.0.extend_from_slice(&x.to_le_bytes());
    }

    pub(super) fn f64s(&mut self, x: &[f64]) {
        self.0.extend(x.iter().flat_map(|x| x.to_le_bytes()));
    }

    pub(super) fn f32s(&mut self, x: &[f32]) {
        self.0.extend(x.iter().flat_map(|x| x.to_le_bytes()));
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what [`Writer`] wrote.
pub(super) struct Reader<'a>(&'a [u8]);

const SHORT: StatisticsError = StatisticsError::Malformed("they end too early");
const NON_FINITE: StatisticsError = StatisticsError::Malformed("a number is NaN or infinite");

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &[u8; 8]) -> Result<Self, StatisticsError> {
        match bytes.strip_prefix(what) {
            Some(rest) => Ok(Self(rest)),
            None => Err(StatisticsError::Malformed(
                "they begin with something else than their kind and version",
            )),
        }
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, elements: usize, size: usize) -> Result<&'a [u8], StatisticsError> {
        let len = elements.checked_mul(size).ok_or(SHORT)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StatisticsError> {
        let bytes = self.take(1, 8)?.first_chunk().ok_or(SHORT)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub(super) fn f64s(&mut self, to: &mut [f64]) -> Result<(), StatisticsError> {
        let bytes = self.take(to.len(), 8)?;
        for (b, to) in bytes.as_chunks().0.iter().zip(to) {
            *to = f64::from_le_bytes(*b);
            if !to.is_finite() {
                return Err(NON_FINITE);
            }
        }
        Ok(())
    }

    pub(super) fn f32s(&mut self, elements: usize) -> Result<Vec<f32>, StatisticsError> {
        let bytes = self.take(elements, 4)?;
        let x: Vec<f32> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        if x.iter().all(|x| x.is_finite()) {
            Ok(x)
        } else {
            Err(NON_FINITE)
        }
    }

    pub(super) fn end(self) -> Result<(), StatisticsError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(StatisticsError::Malformed("bytes are left at their end"))
        }
    }
}
