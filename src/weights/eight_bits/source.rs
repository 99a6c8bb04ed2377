//! The readings of a weight: the ranges of its channels, then its codes.
//!
//! The scale of a channel depends on all its elements, which lie apart where channels are columns, so
//! a weight is read twice. The first reading is shared by the threads that need the result: each
//! takes pieces until none is left. It nests no parallel work, so a thread that waits only waits for
//! threads that read.

use std::{
    cell::RefCell,
    ops::Range as Span,
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::{Error, Result},
    ir::{Data, DataType},
    quant::{
        ChannelParams, ChannelSpec, Range, encode_columns, encode_run, first_nonfinite, range_of,
        ranges_of_columns,
    },
    weights::{
        Channels, Weight,
        constant::{round_to, to_f32},
    },
};

/// Elements that one step reads: 1 MiB of floats, which a core's cache holds.
const STEP: u64 = 1 << 18;

/// What all outputs are computed from.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    /// The weight as it is stored.
    pub(super) data: Data,
    stored: DataType,
    rounding: Option<DataType>,
    channels: Channels,
    spec: ChannelSpec,
    factor: f32,
    /// The next piece to be scanned.
    next: AtomicU64,
    scan: Mutex<Scan>,
    /// Wakes those who wait for the last piece.
    scanned: Condvar,
    params: OnceLock<Params>,
}

/// Scales and zero points of all channels.
#[derive(Debug)]
struct Params {
    scales: Vec<f32>,
    zero_points: Vec<f32>,
}

/// What is known of the ranges so far.
#[derive(Debug, Default)]
struct Scan {
    pieces: u64,
    ranges: Option<Ranges>,
    /// The failure of the first piece that failed: what is reported does not depend on threads.
    failed: Option<(u64, String)>,
}

#[derive(Debug)]
struct Ranges {
    minima: Vec<f32>,
    maxima: Vec<f32>,
}

impl Ranges {
    fn new(count: usize) -> Ranges {
        Ranges {
            minima: vec![Range::EMPTY.min; count],
            maxima: vec![Range::EMPTY.max; count],
        }
    }

    fn get(&self, channel: usize) -> Range {
        Range {
            min: self.minima[channel],
            max: self.maxima[channel],
        }
    }

    fn widen(&mut self, channel: usize, by: Range) {
        let range = self.get(channel).union(by);
        (self.minima[channel], self.maxima[channel]) = (range.min, range.max);
    }
}

impl Source {
    /// `weight`, called `name` in messages; see [`super::EightBits::new`].
    pub(super) fn new(
        name: &str,
        weight: &Weight,
        channels: Channels,
        spec: ChannelSpec,
        factor: f32,
    ) -> Source {
        Source {
            name: name.to_owned(),
            data: weight.data.clone(),
            stored: weight.stored,
            rounding: weight.rounding,
            channels,
            spec,
            factor,
            next: AtomicU64::new(0),
            scan: Mutex::default(),
            scanned: Condvar::new(),
            params: OnceLock::new(),
        }
    }

    /// The type of the codes.
    pub(super) fn dtype(&self) -> DataType {
        match self.spec.signed {
            true => DataType::Int8,
            false => DataType::Uint8,
        }
    }

    fn element(&self) -> u64 {
        self.stored.bits() / 8
    }

    /// Elements, and so bytes of codes.
    pub(super) fn elements(&self) -> u64 {
        self.data.len() / self.element()
    }

    /// Channels.
    pub(super) fn count(&self) -> u64 {
        self.elements() / self.channels.group * self.channels.count
    }

    /// Calls `then` with `count` elements from `first` on.
    fn with_floats(&self, first: u64, count: u64, then: impl FnOnce(&[f32])) -> Result<()> {
        thread_local!(static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
        let len = (count * self.element()) as usize;
        self.data.with_range(first * self.element(), len, |bytes| {
            let mut floats = FLOATS.take();
            floats.resize(count as usize, 0.0);
            to_f32(self.stored, bytes, &mut floats);
            if let Some(to) = self.rounding {
                round_to(to, &mut floats);
            }
            then(&floats);
            FLOATS.set(floats);
        })
    }

    /// Cuts `elements` into stretches that the kernels take: calls `run` for stretches of one
    /// channel, or `columns` for stretches of neighbouring channels, which come again and again,
    /// with the first channel of their group.
    fn stretches(
        &self,
        elements: Span<u64>,
        mut run: impl FnMut(usize, Span<usize>),
        mut columns: impl FnMut(Span<usize>, usize, Span<usize>),
    ) {
        if self.channels.run > 1 {
            return self.channels.runs(elements, run);
        }
        let (count, group) = (self.channels.count, self.channels.group);
        let mut at = elements.start;
        while at < elements.end {
            let end = ((at / group + 1) * group).min(elements.end);
            let base = (at / group * count) as usize;
            let place = (at - elements.start) as usize..(end - elements.start) as usize;
            match count {
                1 => run(base, place),
                _ => columns(base..base + count as usize, (at % count) as usize, place),
            }
            at = end;
        }
    }

    /// Takes piece `piece` into `ranges`.
    fn scan_piece(&self, piece: u64, ranges: &mut Ranges) -> Result<()> {
        let span = piece * STEP..((piece + 1) * STEP).min(self.elements());
        let mut nonfinite = None;
        self.with_floats(span.start, span.end - span.start, |x| {
            nonfinite = first_nonfinite(x);
            let ranges = RefCell::new(ranges);
            self.stretches(
                span.clone(),
                |channel, place| ranges.borrow_mut().widen(channel, range_of(&x[place])),
                |channels, first, place| {
                    let ranges = &mut **ranges.borrow_mut();
                    let minima = &mut ranges.minima[channels.clone()];
                    ranges_of_columns(&x[place], first, minima, &mut ranges.maxima[channels]);
                },
            );
        })?;
        match nonfinite {
            None => Ok(()),
            Some(at) => Err(Error::input(format!(
                "weight `{}`: element {} is NaN or infinite as float; --allow-nonfinite leaves such weights \
                 as they are",
                self.name,
                span.start + at as u64
            ))),
        }
    }

    /// Scales and zero points; scans what no other thread scans, and waits for the rest.
    fn params(&self) -> Result<&Params> {
        if let Some(params) = self.params.get() {
            return Ok(params);
        }
        let pieces = self.elements().div_ceil(STEP);
        let mut own = Ranges::new(self.count() as usize);
        let (mut done, mut failed) = (0, None);
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            done += 1;
            if let Err(error) = self.scan_piece(piece, &mut own) {
                failed = failed.or(Some((piece, error.chain())));
            }
        }
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if done > 0 {
            scan.add(done, own, failed);
            if scan.pieces == pieces {
                self.scanned.notify_all();
            }
        }
        while scan.pieces < pieces {
            scan = self
                .scanned
                .wait(scan)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((_, message)) = &scan.failed {
            return Err(Error::input(message.clone()));
        }
        Ok(self.params.get_or_init(|| self.spread(&scan)))
    }

    fn spread(&self, scan: &Scan) -> Params {
        let ranges = scan.ranges.iter();
        let of = |r: &Ranges, c: usize| self.spec.params(r.get(c));
        let all: Vec<ChannelParams> = ranges
            .flat_map(|r| (0..r.minima.len()).map(move |c| of(r, c)))
            .collect();
        Params {
            scales: all.iter().map(|p| p.scale).collect(),
            zero_points: all.iter().map(|p| p.zero_point.into()).collect(),
        }
    }

    /// The codes from element `first` on, as many as `out` holds.
    pub(super) fn encode(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let Params {
            scales,
            zero_points,
        } = self.params()?;
        for (step, out) in out.chunks_mut(STEP as usize).enumerate() {
            let first = first + step as u64 * STEP;
            let span = first..first + out.len() as u64;
            self.with_floats(first, out.len() as u64, |x| {
                let out = RefCell::new(out);
                self.stretches(
                    span,
                    |channel, place| {
                        let params = ChannelParams {
                            scale: scales[channel],
                            zero_point: zero_points[channel] as i16,
                        };
                        let out = &mut out.borrow_mut()[place.clone()];
                        encode_run(self.spec, &x[place], params, out);
                    },
                    |channels, first, place| {
                        let table = (&scales[channels.clone()], &zero_points[channels]);
                        let out = &mut out.borrow_mut()[place.clone()];
                        encode_columns(self.spec, &x[place], first, table, out);
                    },
                );
            })?;
        }
        Ok(())
    }

    /// All scales, times the factor.
    pub(super) fn write_scales(&self, out: &mut [u8]) -> Result<()> {
        for (&scale, to) in self.params()?.scales.iter().zip(out.as_chunks_mut().0) {
            let scale = scale * self.factor;
            if !scale.is_finite() {
                let message = format!("weight `{}`: a scale overflows as float", self.name);
                return Err(Error::input(message));
            }
            *to = scale.to_le_bytes();
        }
        Ok(())
    }

    /// All zero points.
    pub(super) fn write_zero_points(&self, out: &mut [u8]) -> Result<()> {
        for (&zero_point, to) in self.params()?.zero_points.iter().zip(out) {
            *to = zero_point as i16 as u8;
        }
        Ok(())
    }
}

impl Scan {
    fn add(&mut self, pieces: u64, own: Ranges, failed: Option<(u64, String)>) {
        self.pieces += pieces;
        match &mut self.ranges {
            None => self.ranges = Some(own),
            Some(ranges) => (0..own.minima.len()).for_each(|c| ranges.widen(c, own.get(c))),
        }
        self.failed = [self.failed.take(), failed].into_iter().flatten().min();
    }
}
