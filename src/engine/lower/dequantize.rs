//! The recipe that turns codes into float32.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    ir::{Data, DataType, Produce, data::DataIdentity},
    weights::float_data,
};

use super::known::Known;

/// Packed integers, low bits first.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) data: Data,
    pub(super) bits: u32,
    pub(super) signed: bool,
}

impl Codes {
    /// The elements of `known`; those of uint8 are `packed` codes of so many bits. `None` for
    /// other types than integers.
    pub(super) fn of(known: &Known, packed: Option<u32>) -> Option<Codes> {
        use DataType::*;
        let (bits, signed) = match known.dtype {
            Uint8 => (packed.unwrap_or(8), false),
            Int2 | Int4 | Int8 | Int16 | Int32 => (known.dtype.bits() as u32, true),
            Uint2 | Uint4 | Uint16 => (known.dtype.bits() as u32, false),
            _ => return None,
        };
        Some(Codes {
            data: known.data.clone(),
            bits,
            signed,
        })
    }
}

/// What is subtracted from the codes of a block.
#[derive(Clone, Debug)]
pub(super) enum Zero {
    /// The same number everywhere.
    Is(i32),
    /// A packed integer for each block.
    Codes(Codes),
    /// A float for each block.
    Floats(Data, DataType),
}

/// Distances between neighbours along the outer axes, the blocks, and the inner axes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Strides {
    pub(super) outer: u64,
    pub(super) block: u64,
    pub(super) inner: u64,
}

impl Strides {
    fn at(&self, outer: u64, block: u64, inner: u64) -> usize {
        (outer * self.outer + block * self.block + inner * self.inner) as usize
    }
}

/// How codes, scales and zero points lie. Everything is a tensor of three axes: those before
/// the quantized one, that one, and those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grid {
    pub(super) outer: u64,
    pub(super) axis: u64,
    pub(super) inner: u64,
    /// Codes along the axis as stored, which may be padded.
    pub(super) stored: u64,
    /// Elements along the axis that share a scale.
    pub(super) block: u64,
    pub(super) scales: Strides,
    pub(super) zeros: Strides,
}

impl Grid {
    /// Blocks along the axis.
    fn blocks(&self) -> u64 {
        self.axis.div_ceil(self.block)
    }

    /// How many elements `strides` reach.
    fn reach(&self, strides: Strides) -> u64 {
        let steps = |n: u64, stride: u64| n.saturating_sub(1) * stride;
        steps(self.outer, strides.outer)
            + steps(self.blocks(), strides.block)
            + steps(self.inner, strides.inner)
            + 1
    }

    fn count(&self) -> u64 {
        self.outer * self.axis * self.inner
    }
}

/// `(code - zero point) * scale`, as float32 and in that order, row-major.
///
/// It is one tile: its sources may be recipes themselves, of which a part costs as much as
/// the whole.
#[derive(Debug)]
pub(super) struct Dequantize {
    pub(super) codes: Codes,
    pub(super) scales: (Data, DataType),
    pub(super) zero: Zero,
    pub(super) grid: Grid,
    /// The block of each element along the axis (int32), where they are not in order.
    pub(super) group: Option<Data>,
}

impl Dequantize {
    /// Checks that the sources are as long as the grid says, before anything is computed.
    ///
    /// # Errors
    /// Which of them is not.
    pub(super) fn check(&self) -> Result<()> {
        let grid = &self.grid;
        let expect = |name: &str, found: u64, needed: u64| match found >= needed {
            true => Ok(()),
            false => Err(Error::input(format!(
                "{name}: {found} elements, expected {needed}"
            ))),
        };
        if grid.count() == 0 {
            return Ok(());
        }
        let elements = |codes: &Codes| codes.data.len() * 8 / u64::from(codes.bits);
        let last_row = (grid.outer - 1) * grid.stored * grid.inner;
        let codes = last_row + grid.axis * grid.inner;
        expect("codes", elements(&self.codes), codes)?;
        let (scales, dtype) = &self.scales;
        if !dtype.is_float() {
            return Err(Error::input(format!("scales are {dtype}")));
        }
        let scales = scales.len() * 8 / dtype.bits();
        expect("scales", scales, grid.reach(grid.scales))?;
        match &self.zero {
            Zero::Is(_) => {}
            Zero::Codes(codes) => {
                expect("zero points", elements(codes), grid.reach(grid.zeros))?;
            }
            Zero::Floats(data, dtype) => {
                let zeros = data.len() * 8 / dtype.bits();
                expect("zero points", zeros, grid.reach(grid.zeros))?;
            }
        }
        if let Some(group) = &self.group {
            let group = read_group(group)?;
            expect("g_idx", group.len() as u64, grid.axis)?;
            if let Some(g) = group.iter().find(|g| **g >= grid.blocks()) {
                return Err(Error::input(format!(
                    "`g_idx` has an element {g}, expected less than {} blocks",
                    grid.blocks()
                )));
            }
        }
        Ok(())
    }

    /// What tells it from others: two with equal keys give the same elements.
    pub(super) fn key(&self) -> Key {
        let codes = |c: &Codes| (c.data.identity(), u64::from(c.bits), u64::from(c.signed));
        let zero = match &self.zero {
            Zero::Is(z) => (None, *z as u64, 0),
            Zero::Codes(c) => (Some(c.data.identity()), codes(c).1, codes(c).2),
            Zero::Floats(data, dtype) => (Some(data.identity()), 1000, dtype.bits()),
        };
        let (id, bits, signed) = codes(&self.codes);
        Key {
            codes: (id, bits, signed),
            scales: (self.scales.0.identity(), self.scales.1),
            zero,
            grid: self.grid,
            group: self.group.as_ref().map(Data::identity),
        }
    }
}

/// See [`Dequantize::key`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    codes: (DataIdentity, u64, u64),
    scales: (DataIdentity, DataType),
    zero: (Option<DataIdentity>, u64, u64),
    grid: Grid,
    group: Option<DataIdentity>,
}

impl Produce for Dequantize {
    fn len(&self, _: usize) -> u64 {
        self.grid.count() * 4
    }

    fn tiles(&self) -> u64 {
        1
    }

    fn range(&self, _: u64, output: usize) -> Range<u64> {
        0..self.len(output)
    }

    fn produce(&self, _: u64, out: &mut [&mut [u8]]) -> Result<()> {
        let grid = &self.grid;
        let codes = Integers::read(&self.codes)?;
        let scales = float_data(&self.scales.0, self.scales.1)?;
        let zeros = match &self.zero {
            Zero::Is(z) => Zeros::Is(*z),
            Zero::Codes(codes) => Zeros::Integers(Integers::read(codes)?),
            Zero::Floats(data, dtype) => Zeros::Floats(float_data(data, *dtype)?),
        };
        let group = self.group.as_ref().map(read_group).transpose()?;
        let mut out = out[0].as_chunks_mut::<4>().0.iter_mut();
        for outer in 0..grid.outer {
            for a in 0..grid.axis {
                let block = match &group {
                    Some(group) => group[a as usize],
                    None => a / grid.block,
                };
                for inner in 0..grid.inner {
                    let index = (outer * grid.stored + a) * grid.inner + inner;
                    let code = codes.get(index as usize);
                    let scale = scales[grid.scales.at(outer, block, inner)];
                    let steps = match &zeros {
                        Zeros::Is(z) => (code - z) as f32,
                        Zeros::Integers(z) => {
                            (code - z.get(grid.zeros.at(outer, block, inner))) as f32
                        }
                        Zeros::Floats(z) => code as f32 - z[grid.zeros.at(outer, block, inner)],
                    };
                    let place = out.next().expect("as many places as elements");
                    *place = (steps * scale).to_le_bytes();
                }
            }
        }
        Ok(())
    }
}

enum Zeros {
    Is(i32),
    Integers(Integers),
    Floats(Vec<f32>),
}

fn read_group(data: &Data) -> Result<Vec<u64>> {
    let bytes = data.read_all()?;
    let groups = bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
    groups
        .map(|g| u64::try_from(g).map_err(|_| Error::input(format!("`g_idx` has an element {g}"))))
        .collect()
}

/// Integers in memory.
struct Integers {
    bytes: bytes::Bytes,
    bits: u32,
    signed: bool,
}

impl Integers {
    fn read(codes: &Codes) -> Result<Integers> {
        Ok(Integers {
            bytes: codes.data.read_all()?,
            bits: codes.bits,
            signed: codes.signed,
        })
    }

    #[inline]
    fn get(&self, index: usize) -> i32 {
        let raw = match self.bits {
            32 => {
                let (all, _) = self.bytes.as_chunks();
                return i32::from_le_bytes(all[index]);
            }
            16 => {
                let (all, _) = self.bytes.as_chunks();
                u32::from(u16::from_le_bytes(all[index]))
            }
            bits => {
                let bit = index * bits as usize;
                u32::from(self.bytes[bit / 8]) >> (bit % 8)
            }
        };
        // The code at the top of a register: shifting it down again fills with zeros or the sign.
        let high = raw << (32 - self.bits);
        match self.signed {
            true => high as i32 >> (32 - self.bits),
            false => (high >> (32 - self.bits)) as i32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: &[u8]) -> Data {
        Data::Bytes(bytes.to_vec().into())
    }

    fn floats(elements: &[f32]) -> (Data, DataType) {
        let all: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
        (bytes(&all), DataType::Float)
    }

    fn result(recipe: Dequantize) -> Vec<f32> {
        let mut out = vec![0; recipe.len(0) as usize];
        recipe.produce(0, &mut [&mut out]).unwrap();
        let (all, _) = out.as_chunks();
        all.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn integers_of_every_width() {
        let read = |data: &[u8], bits, signed, index| {
            let codes = Codes {
                data: bytes(data),
                bits,
                signed,
            };
            Integers::read(&codes).unwrap().get(index)
        };
        assert_eq!(read(&[0b1110_0100], 2, false, 3), 3);
        assert_eq!(read(&[0b1110_0100], 2, true, 3), -1);
        assert_eq!(read(&[0x7f], 4, true, 0), -1);
        assert_eq!(read(&[0x7f], 4, true, 1), 7);
        assert_eq!(read(&[0, 0x80], 8, true, 1), -128);
        assert_eq!(read(&[0, 0x80], 16, true, 0), -32768);
        assert_eq!(read(&[0, 0x80], 16, false, 0), 32768);
        assert_eq!(read(&[0xfe, 0xff, 0xff, 0xff], 32, true, 0), -2);
    }

    /// Rows of three codes in blocks of two, padded to four; zero points a byte a row.
    #[test]
    fn padded_rows_with_packed_zero_points() {
        let codes = |data: &[u8]| Codes {
            data: bytes(data),
            bits: 4,
            signed: false,
        };
        let recipe = Dequantize {
            codes: codes(&[0x21, 0xf3, 0x54, 0xf6]),
            scales: floats(&[1.0, 10.0, 100.0, 1000.0]),
            zero: Zero::Codes(codes(&[0x10, 0x42])),
            grid: Grid {
                outer: 2,
                axis: 3,
                inner: 1,
                stored: 4,
                block: 2,
                scales: Strides {
                    outer: 2,
                    block: 1,
                    inner: 0,
                },
                zeros: Strides {
                    outer: 2,
                    block: 1,
                    inner: 0,
                },
            },
            group: None,
        };
        assert_eq!(result(recipe), [1.0, 2.0, 20.0, 200.0, 300.0, 2000.0]);
    }

    #[test]
    fn a_group_index_replaces_the_order_of_the_blocks() {
        let recipe = Dequantize {
            codes: Codes {
                data: bytes(&[1, 2, 3]),
                bits: 8,
                signed: true,
            },
            scales: floats(&[1.0, 10.0]),
            zero: Zero::Floats(floats(&[0.5, 1.0]).0, DataType::Float),
            grid: Grid {
                outer: 1,
                axis: 3,
                inner: 1,
                stored: 3,
                block: 16,
                scales: Strides {
                    outer: 2,
                    block: 1,
                    inner: 0,
                },
                zeros: Strides {
                    outer: 2,
                    block: 1,
                    inner: 0,
                },
            },
            group: Some(bytes(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])),
        };
        assert_eq!(result(recipe), [0.0, 1.5, 20.0]);
    }
}
